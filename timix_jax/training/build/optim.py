"""`config.optim`: the optimiser, the learning-rate schedule and the average of the parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.optim import schedule
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.optim.schedule import Schedule

_LR_SCALE = ([str, float], [str, int])


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """`config.optim`.

    Attributes:
      lr_scales: (pattern, factor of the learning rate).
      layer_decay: factor from a layer to the one before.
      warmup: a duration.
      clip_norm: 0 for no clipping.
      ema: decay of the average of the parameters; 0 for none.
    """

    name: str
    lr: float
    lr_scales: tuple[tuple[str, float], ...]
    layer_decay: float
    warmup: str
    start_lr: float
    end_lr: float
    b1: float
    b2: float
    weight_decay: float
    clip_norm: float
    ema: float

    @classmethod
    def read(cls, config: ConfigDict) -> "OptimSettings":
        """Read the group."""
        return cls(**config.optim)

    def warmup_steps(self, to_steps: Callable[..., int]) -> int:
        """Return the length of the warm-up; `to_steps` converts a duration, given its `field` too."""
        return to_steps(self.warmup, field="config.optim.warmup")


def build_optimizer(
    optim: OptimSettings, params: Any, axes: Any, rate: Schedule
) -> optax.GradientTransformation:
    """Build the optimiser for these parameters (or their shapes) and their declared axes."""
    for entry in optim.lr_scales:
        if not isinstance(entry, (tuple, list)) or [type(x) for x in entry] not in _LR_SCALE:
            raise UserError(
                f"config.optim.lr_scales={optim.lr_scales}: {entry!r} is not (pattern, factor); "
                "write (('image/.*', 0.1),)"
            )
    with error_prefix("config.optim."):
        return make_optimizer(
            params,
            axes,
            schedule=rate,
            name=optim.name,
            b1=optim.b1,
            b2=optim.b2,
            weight_decay=optim.weight_decay,
            clip_norm=optim.clip_norm or None,
            lr_scales=tuple((pattern, float(factor)) for pattern, factor in optim.lr_scales),
            layer_decay=optim.layer_decay,
        )


def build_schedule(optim: OptimSettings, total_steps: int, warmup_steps: int) -> Schedule:
    """Build the learning rate over a training of `total_steps`."""
    with error_prefix("config.optim."):
        return schedule.warmup_cosine(
            optim.lr, total_steps, warmup_steps, optim.start_lr, optim.end_lr
        )
