"""From a configuration to the objects of a run: the one place where config fields become arguments."""

from timix_jax.training.build.batch import abstract_batch
from timix_jax.training.build.checks import check_shapes
from timix_jax.training.build.evaluation import build_evaluators
from timix_jax.training.build.losses import build_objectives
from timix_jax.training.build.model import abstract_params, build_layout, build_model
from timix_jax.training.build.optimizer import build_optimizer
from timix_jax.training.build.plan import Plan, nominal_plan
from timix_jax.training.build.run import Experiment, build

__all__ = [
    "Experiment",
    "Plan",
    "abstract_batch",
    "abstract_params",
    "build",
    "build_evaluators",
    "build_layout",
    "build_model",
    "build_objectives",
    "build_optimizer",
    "check_shapes",
    "nominal_plan",
]
