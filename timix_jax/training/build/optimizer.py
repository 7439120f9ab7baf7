"""`config.optim` as arguments."""

from typing import Any

import optax
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.optim.schedule import Schedule

_LR_SCALE = ([str, float], [str, int])


def build_optimizer(
    config: ConfigDict, params: Any, axes: Any, rate: Schedule
) -> optax.GradientTransformation:
    """The optimiser of `config.optim` for these parameters (or shapes) and their declared axes."""
    o = config.optim
    for entry in o.lr_scales:
        if not isinstance(entry, (tuple, list)) or [type(x) for x in entry] not in _LR_SCALE:
            raise UserError(
                f"config.optim.lr_scales={o.lr_scales}: {entry!r} is not (pattern, factor); "
                "write (('image/.*', 0.1),)"
            )
    with error_prefix("config.optim."):
        return make_optimizer(
            params,
            axes,
            schedule=rate,
            name=o.name,
            b1=o.b1,
            b2=o.b2,
            weight_decay=o.weight_decay,
            clip_norm=o.clip_norm or None,
            lr_scales=tuple((pattern, float(factor)) for pattern, factor in o.lr_scales),
        )
