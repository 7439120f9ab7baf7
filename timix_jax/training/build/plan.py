"""A training before there are data: model, losses, optimiser, and the FLOPs of a step."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective
from timix_jax.objectives.base import boundaries, objectives_at
from timix_jax.objectives.vocabulary import Vocabulary, nominal_vocabulary
from timix_jax.optim.optimizer import freeze
from timix_jax.optim.schedule import Schedule
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.sharding import with_shardings
from timix_jax.training import state as train_state
from timix_jax.training.build.batch import abstract_batch
from timix_jax.training.build.checks import NOMINAL_STEPS, check_settings, nominal_steps
from timix_jax.training.build.losses import build_objectives, check_objectives
from timix_jax.training.build.model import abstract_params, build_model
from timix_jax.training.build.optim import build_optimizer, build_schedule
from timix_jax.training.build.settings import Settings
from timix_jax.training.build.steps import Steps
from timix_jax.training.flops import StepFlops
from timix_jax.training.step import jit_train_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training without its data."""

    settings: Settings
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
        """The seed of initialisation, data order, augmentation and the step's random streams."""
        return self.settings.seed

    @property
    def batch_size(self) -> int:
        """Images per step, over all devices."""
        return self.settings.train.batch_size

    @property
    def ema_decay(self) -> float:
        """The decay of the average of the parameters; 0 for none."""
        return self.settings.optim.ema

    @property
    def initial_weights(self) -> Mapping[str, str]:
        """Part of the model (empty for all of it) → weights to start from."""
        return self.settings.initial_weights

    @property
    def peak_flops(self) -> float | None:
        """Peak FLOP/s of a device; None if it is neither given nor known."""
        return self.settings.log.peak_flops(self.mesh.devices.flat[0])

    def create_state(self, key: jax.Array) -> train_state.TrainState:
        """Create a fresh training state, a pure function of `key`."""
        return train_state.create(
            self.model, self.optimizer, key, ema=self.ema_decay > 0, objectives=self.objectives
        )

    @functools.cached_property
    def abstract_state(self) -> train_state.TrainState:
        """The shapes and dtypes of the state; nothing is computed."""
        return jax.eval_shape(self.create_state, jax.random.key(0))

    def train_step(self, objectives: Sequence[Objective]) -> Any:
        """Return the jitted step of these objectives on the mesh; the state that it takes is donated."""
        return self._steps.jitted(objectives)

    def counted_flops(self, objectives: Sequence[Objective]) -> StepFlops:
        """Return the FLOPs of one step of these objectives over all devices; counted once."""
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
            freeze=functools.partial(freeze, lr_scales=self.settings.optim.lr_scales),
        )
        return jit_train_step(step, self.layout, self.abstract_state)

    def _abstract_arguments(self) -> tuple[Any, Any]:
        """Return state and batch as shapes with the shardings of the real ones, for one trace of both."""
        abstract = self.abstract_state
        batch = abstract_batch(self.settings)
        on_mesh = jax.tree.map(lambda _: self.layout.batch, batch)
        return (
            with_shardings(abstract, self.layout.shardings(abstract)),
            with_shardings(batch, on_mesh),
        )


def build_plan(
    settings: Settings,
    layout: Layout,
    *,
    vocab_size: int,
    pad_id: int,
    eot_id: int = 0,
    separators: tuple[int, ...] = (),
    vocabulary: Vocabulary | None = None,
    to_steps: Callable[..., int],
    rate: Schedule,
) -> Plan:
    """Build the plan of a training.

    Args:
      settings: from `read_settings`.
      layout: from `check_shapes`.
      vocab_size, pad_id, eot_id: those of the tokenizer.
      separators: its ids of `config.mix.separators`.
      vocabulary: its ids by role; None to assume them.
      to_steps: maps a duration and its `field` to steps.
      rate: maps a step to the learning rate.
    """
    model = build_model(
        settings, vocab_size=vocab_size, pad_id=pad_id, eot_id=eot_id, layout=layout
    )
    vocabulary = vocabulary or nominal_vocabulary(vocab_size)
    objectives = tuple(build_objectives(settings, model, layout, to_steps, separators, vocabulary))
    params, axes = abstract_params(model), model.parameter_axes()
    optimizer = build_optimizer(settings.optim, params, axes, rate)
    return Plan(settings, layout, model, objectives, optimizer, rate)


def nominal_plan(settings: Settings, layout: Layout, *, vocab_size: int) -> Plan:
    """Build the plan of a training whose data are missing, with nominal durations."""
    check_settings(settings)
    to_steps = nominal_steps(settings)
    # A nominal epoch may be shorter than that of the data: a warm-up that seems too long may be right.
    warmup = settings.optim.warmup_steps(to_steps)
    total = max(settings.train.total_steps(to_steps), warmup)
    rate = build_schedule(settings.optim, total, warmup)
    plan = build_plan(
        settings, layout, vocab_size=vocab_size, pad_id=0, to_steps=to_steps, rate=rate
    )
    check_objectives(plan.objectives, NOMINAL_STEPS)
    return plan
