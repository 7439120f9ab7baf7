"""Peaks of devices by the names of their kinds."""

import types

import jax
import pytest

from timix_jax.errors import RunError, UserError
from timix_jax.runtime.devices import check_backend, peak_flops


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


@pytest.mark.parametrize(
    ("platforms", "error", "kind", "said"),
    [
        ("cuda", AssertionError(), UserError, "JAX_PLATFORMS=cuda: JAX cannot use it (no plugin"),
        ("foo", RuntimeError("not in\nthe list"), UserError, "it (not in the list); unset the va"),
        (None, RuntimeError("The TPU is in use"), RunError, "device that it can use (The TPU is"),
    ],
)
def test_devices_that_are_missing_are_one_line(monkeypatch, platforms, error, kind, said):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", platforms)
    try:
        with pytest.raises(UserError) as caught:
            check_backend()
    finally:
        jax.config.update("jax_platforms", before)
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
