"""Everything of a run, built from a complete configuration."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.loader_processes import default_process_count
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.data.loading.train_iterator import TrainIterator
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import error_prefix
from timix_jax.objectives import Objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.optim import schedule
from timix_jax.parallel.mesh import own_rows
from timix_jax.training.build.checks import check_shapes
from timix_jax.training.build.data import (
    build_tokenizer,
    needs_boxes,
    open_training_sources,
    uses_regions,
)
from timix_jax.training.build.losses import check_objectives
from timix_jax.training.build.plan import Plan, build_plan, build_schedule, training_steps


@dataclasses.dataclass(frozen=True)
class Experiment(Plan):
    """Everything of a run that does not change while it runs.

    Attributes:
      examples: length of an epoch.
      total_steps: updates of the whole training.
      every: periods in steps of "log", "eval" and "checkpoint"; 0 = never.
    """

    tokenizer: Tokenizer
    sources: tuple[Source, ...]
    examples: int
    total_steps: int
    every: dict[str, int]

    def train_iterator(self, start_step: int) -> TrainIterator:
        """The input pipeline; its element s is the batch of step s."""
        asked = self.config.data.processes
        return self._batches(start_step, default_process_count() if asked < 0 else asked)

    def first_batch(self) -> dict[str, Any]:
        """The batch of step 0, on the host; nothing works on others afterwards."""
        with contextlib.closing(self._batches(0, num_processes=0)) as batches:
            return next(batches)

    def _batches(self, start_step: int, num_processes: int) -> TrainIterator:
        c = self.config
        with error_prefix("config.augment."):
            augment = Augment(**c.augment.to_dict())
        with error_prefix("config.data, config.train: "):
            return make_train_iterator(
                self.sources,
                c.data.weights or None,
                batch_size=c.train.batch_size,
                image_size=c.model.image.size,
                max_tokens=c.model.text.max_tokens,
                tokenizer=self.tokenizer,
                seed=c.seed,
                augment=augment,
                with_boxes=needs_boxes(c),
                region_batch_size=c.regions.batch_size if uses_regions(c) else 0,
                max_regions=c.regions.max_regions,
                region_max_tokens=c.regions.max_tokens or None,
                own_rows=functools.partial(own_rows, self.mesh),
                num_threads=c.data.threads,
                num_processes=num_processes,
                start_step=start_step,
            )


def build(config: ConfigDict, *, tokenizer: Tokenizer | None = None) -> Experiment:
    """Builds a run from a complete configuration; nothing is compiled yet.

    Args:
      config: from `config.complete`.
      tokenizer: of a run that is resumed; otherwise it is loaded or trained as config.data says.

    Raises:
      UserError: the first field that cannot work.
    """
    layout = check_shapes(config)
    sources = open_training_sources(config)
    tokenizer = tokenizer or build_tokenizer(config, sources)
    examples = sum(len(source) for source in sources)
    to_steps = functools.partial(
        schedule.steps, batch_size=config.train.batch_size, examples=examples
    )
    total = training_steps(config, to_steps)
    within = functools.partial(to_steps, total_steps=total)
    plan = build_plan(
        config,
        layout,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        to_steps=within,
        rate=build_schedule(config, total, within),
    )
    check_objectives(plan.objectives, total)
    _warn_of_untrained_scores(config, plan.objectives)
    return Experiment(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)},
        tokenizer=tokenizer,
        sources=sources,
        examples=examples,
        total_steps=total,
        every={
            name: within(config[name].every, field=f"config.{name}.every")
            for name in ("log", "eval", "checkpoint")
        },
    )


def _warn_of_untrained_scores(config: ConfigDict, objectives: Sequence[Objective]) -> None:
    trained = {o.name for o in objectives}
    for source in (o.score for o in objectives if isinstance(o, MixedContrastive)):
        if source and source.trained and source.trained not in trained and not config.init_from:
            logging.warning(
                "config.mix.score=%r with config.loss.%s.weight=0: nothing trains the patch predictor, so that windows"
                " are arbitrary; set config.mix.score='similarity', or give regions and a weight, or config.init_from",
                *(source.name, source.trained),
            )
