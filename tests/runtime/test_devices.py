"""Peaks of devices by the names of their kinds."""

import types

import pytest

from timix_jax.runtime.devices import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA B200", 2250e12),
        ("TPU v5e", 197e12),
        ("TPU v6e", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
        ("Radeon", None),
    ],
)
def test_peaks(kind, peak):
    device = types.SimpleNamespace(device_kind=kind)
    assert peak_flops(device) == peak
    assert peak_flops(device, given_tflops=0.07) == pytest.approx(7e10)
