"""Peak FLOP/s and memory of accelerators, by kind of device."""

import jax

from timix_jax.errors import RunError, UserError

GIB = 2**30

# Dense bfloat16 FLOP/s of one JAX device, from vendors' data sheets, by the start of device_kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,  # JAX's name for v5p; after "TPU v5 lite"
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,  # half a chip: each of its two cores is a device
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}

# HBM of one device, from Google's data sheets, by the start of device_kind.
HBM_BYTES = {
    "TPU v4": 32 * GIB,
    "TPU v5 lite": 16 * GIB,
    "TPU v5": 95 * GIB,  # JAX's name for v5p; after "TPU v5 lite"
    "TPU v6 lite": 32 * GIB,
    "TPU7x": 96 * GIB,  # half a chip: each of its two cores is a device with half of the memory
}


def check_backend() -> None:
    """Let JAX look for its devices, so that their absence is one line.

    Raises:
      UserError: JAX_PLATFORMS names a platform that this JAX does not have.
      RunError: the devices cannot be used, as when another process holds them.
    """
    try:
        jax.devices()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # a plain assertion where JAX lacks the platform's plugin
        cause = " ".join(str(error).split())[:300] or "no plugin for it is installed"
        if platforms := jax.config.values["jax_platforms"]:
            raise UserError(
                f"JAX_PLATFORMS={platforms}: JAX cannot use it ({cause}); unset the variable, or install JAX for that"
                " platform, such as pip install 'jax[cuda12]'"
            ) from error
        raise RunError(f"JAX finds no device that it can use ({cause})") from error


def peak_flops(device: jax.Device, given_tflops: float = 0.0) -> float | None:
    """Return the peak FLOP/s of one device, the denominator of its utilisation.

    Args:
      device: any JAX device.
      given_tflops: the user's own figure in TFLOP/s per device, such as that of float32; 0 for the
        table's, which is bfloat16.

    Returns:
      None for kinds missing from the table (all CPUs), unless a figure is given.
    """
    if given_tflops:
        return given_tflops * 1e12
    return next((f for kind, f in PEAK_FLOPS.items() if device.device_kind.startswith(kind)), None)


def hbm_bytes(device: jax.Device) -> int | None:
    """Return the bytes of HBM of one device; None for kinds missing from the table."""
    return next((b for kind, b in HBM_BYTES.items() if device.device_kind.startswith(kind)), None)


def device_unit(device: jax.Device) -> str:
    """Return the unit of a device: "chip", or "core" if each core of a chip is a device, as on TPU7x."""
    return "core" if device.device_kind.startswith("TPU7x") else "chip"
