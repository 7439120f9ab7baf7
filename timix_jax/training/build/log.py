"""`config.log`: how often metrics are logged, and where."""

import dataclasses

import jax
from ml_collections import ConfigDict

from timix_jax.runtime import devices


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """`config.log`; `peak_tflops` is 0 for the known peak of the device."""

    every: str
    tensorboard: bool
    wandb: bool
    peak_tflops: float

    @classmethod
    def read(cls, config: ConfigDict) -> "LogSettings":
        """Read the group."""
        return cls(**config.log)

    def peak_flops(self, device: jax.Device) -> float | None:
        """Return the peak FLOP/s of a device; None if it is neither given nor known."""
        return devices.peak_flops(device, self.peak_tflops)
