"""From a configuration to the objects of a run: the one place where configuration fields become arguments.

`settings.read_settings` reads a recipe once; each group (`config.data`, `config.mix`, …) is read by the module named
after it: losses.py reads `loss` and `contrastive`, data.py also `augment` and `regions`, evaluation.py `eval`. From
there on typed settings and plain values travel. May import everything but the loop and its hooks.
"""

from timix_jax.training.build.batch import abstract_batch
from timix_jax.training.build.checkpoint import open_checkpointer
from timix_jax.training.build.checks import check_shapes
from timix_jax.training.build.evaluation import (
    build_evaluators,
    check_evaluators,
    evaluated_part,
)
from timix_jax.training.build.losses import build_objectives
from timix_jax.training.build.mesh import build_layout
from timix_jax.training.build.model import abstract_params, build_model
from timix_jax.training.build.optim import build_optimizer
from timix_jax.training.build.plan import Plan, nominal_plan
from timix_jax.training.build.run import Experiment, build
from timix_jax.training.build.settings import Settings, read_settings

__all__ = [
    "Experiment",
    "Plan",
    "Settings",
    "abstract_batch",
    "abstract_params",
    "build",
    "build_evaluators",
    "build_layout",
    "build_model",
    "build_objectives",
    "build_optimizer",
    "check_evaluators",
    "check_shapes",
    "evaluated_part",
    "nominal_plan",
    "open_checkpointer",
    "read_settings",
]
