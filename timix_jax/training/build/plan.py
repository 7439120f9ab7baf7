"""What a configuration trains and how, before there are data: model, losses, optimiser, and what they take."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective
from timix_jax.objectives.base import boundaries, objectives_at
from timix_jax.optim import schedule
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.sharding import with_shardings
from timix_jax.runtime import devices
from timix_jax.training import state as state
from timix_jax.training.build.batch import abstract_batch
from timix_jax.training.build.checks import NOMINAL_STEPS, check_settings, nominal_steps
from timix_jax.training.build.losses import (
    build_objectives,
    check_objectives,
)
from timix_jax.training.build.model import abstract_params, build_model
from timix_jax.training.build.optimizer import build_optimizer
from timix_jax.training.build.steps import Steps
from timix_jax.training.flops import StepFlops
from timix_jax.training.step import jit_train_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training without its data."""

    config: ConfigDict
    layout: Layout
    model: ImageTextModel
    objectives: tuple[Objective, ...]
    optimizer: optax.GradientTransformation
    schedule: Schedule

    @property
    def mesh(self) -> Mesh:
        """The mesh of the layout."""
        return self.layout.mesh

    @property
    def seed(self) -> int:
        """Of initialisation, data order, augmentation and the step's random streams."""
        return self.config.seed

    @property
    def batch_size(self) -> int:
        """Images a step, over all devices."""
        return self.config.train.batch_size

    @property
    def ema_decay(self) -> float:
        """Of the average of the parameters; 0 for none."""
        return self.config.optim.ema

    @property
    def init_from(self) -> str:
        """Another run whose weights it starts from; empty for none."""
        return self.config.init_from

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s of a device at best, given or known; None where neither."""
        return devices.peak_flops(self.mesh.devices.flat[0], self.config.log.peak_tflops)

    def create_state(self, key: jax.Array) -> state.TrainState:
        """A fresh training state, pure in `key`."""
        return state.create(
            self.model, self.optimizer, key, ema=self.ema_decay > 0, objectives=self.objectives
        )

    @functools.cached_property
    def abstract_state(self) -> state.TrainState:
        """Shapes and dtypes of the state; nothing is computed."""
        return jax.eval_shape(self.create_state, jax.random.key(0))

    def train_step(self, objectives: Sequence[Objective]) -> Any:
        """Return the jitted step of these objectives on the mesh; the state that it takes is donated."""
        return self._steps.jitted(objectives)

    def counted_flops(self, objectives: Sequence[Objective]) -> StepFlops:
        """Return the FLOPs of one step of these objectives over all devices; they are counted once."""
        return self._steps.flops(objectives)

    def step_flops(self, step: int = 0) -> float:
        """Return the model's FLOPs of one step over all devices."""
        return self.counted_flops(objectives_at(self.objectives, step)).model

    def training_flops(self, start: int, stop: int) -> float:
        """Return the model's FLOPs of the steps `start` to `stop - 1` over all devices."""
        changes = [step for step in boundaries(self.objectives) if start < step < stop]
        return sum(
            (last - first) * self.step_flops(first)
            for first, last in itertools.pairwise([start, *changes, stop])
        )

    @functools.cached_property
    def _steps(self) -> Steps:
        return Steps(self._jit_step, self._abstract_arguments)

    def _jit_step(self, objectives: Sequence[Objective]) -> Any:
        step = make_train_step(
            self.model,
            objectives,
            self.optimizer,
            schedule=self.schedule,
            ema_decay=self.ema_decay,
            seed=self.seed,
        )
        return jit_train_step(step, self.layout, self.abstract_state)

    def _abstract_arguments(self) -> tuple[Any, Any]:
        """Return state and batch as shapes with the shardings of the real ones, for one trace of both."""
        abstract = self.abstract_state
        batch = abstract_batch(self.config)
        on_mesh = jax.tree.map(lambda _: self.layout.batch, batch)
        return (
            with_shardings(abstract, self.layout.shardings(abstract)),
            with_shardings(batch, on_mesh),
        )


def build_plan(
    config: ConfigDict,
    layout: Layout,
    *,
    vocab_size: int,
    pad_id: int,
    to_steps: Callable[..., int],
    rate: Schedule,
) -> Plan:
    """The plan of a complete configuration.

    Args:
      config: from `config.complete`.
      layout: from `check_shapes`.
      vocab_size, pad_id: the tokenizer's.
      to_steps: a duration and its `field` → steps.
      rate: step → learning rate.
    """
    model = build_model(config, vocab_size=vocab_size, pad_id=pad_id, layout=layout)
    objectives = tuple(build_objectives(config, model, layout, to_steps))
    optimizer = build_optimizer(config, abstract_params(model), model.parameter_axes(), rate)
    return Plan(config, layout, model, objectives, optimizer, rate)


def training_steps(config: ConfigDict, to_steps: Callable[..., int]) -> int:
    """Length of the training; `to_steps` is given a duration and its `field`."""
    total = to_steps(config.train.duration, field="config.train.duration")
    if total < 1:
        raise UserError(f"config.train.duration={config.train.duration!r}: give at least 1 step")
    return total


def build_schedule(config: ConfigDict, total_steps: int, to_steps: Callable[..., int]) -> Schedule:
    """The learning rate of `config.optim` over a training of so many steps."""
    o = config.optim
    warmup = to_steps(o.warmup, field="config.optim.warmup")
    with error_prefix("config.optim."):
        return schedule.warmup_cosine(o.lr, total_steps, warmup, o.start_lr, o.end_lr)


def nominal_plan(config: ConfigDict, layout: Layout, *, vocab_size: int) -> Plan:
    """The plan of a complete configuration whose data are not there: durations are nominal."""
    check_settings(config)
    to_steps = nominal_steps(config)
    # A nominal epoch may be shorter than the data's: a warm-up that seems too long need not be.
    warmup = to_steps(config.optim.warmup, field="config.optim.warmup")
    rate = build_schedule(config, max(training_steps(config, to_steps), warmup), to_steps)
    plan = build_plan(config, layout, vocab_size=vocab_size, pad_id=0, to_steps=to_steps, rate=rate)
    check_objectives(plan.objectives, NOMINAL_STEPS)
    return plan
