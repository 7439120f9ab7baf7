"""A run: the plan of a training together with its data."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from absl import logging

from timix_jax.data.loading.epoch_borders import log_epoch_borders
from timix_jax.data.loading.train_iterator import TrainIterator
from timix_jax.data.sources import Source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.objectives import Objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import Oracle
from timix_jax.optim import schedule
from timix_jax.training.build.caption_checks import check_splittable
from timix_jax.training.build.checks import check_shapes
from timix_jax.training.build.data import (
    build_tokenizer,
    check_captions_differ,
    open_train_iterator,
    open_training_sources,
)
from timix_jax.training.build.losses import build_vocabulary, check_objectives
from timix_jax.training.build.optim import build_schedule
from timix_jax.training.build.plan import Plan, build_plan
from timix_jax.training.build.settings import Settings


@dataclasses.dataclass(frozen=True)
class Experiment(Plan):
    """Everything about a run that does not change while it trains.

    Attributes:
      examples: length of an epoch.
      total_steps: updates of the whole training.
      every: periods in steps of "log", "eval" and "checkpoint"; 0 for never.
    """

    tokenizer: Tokenizer
    sources: tuple[Source, ...]
    examples: int
    total_steps: int
    every: dict[str, int]

    def train_iterator(self, start_step: int) -> TrainIterator:
        """Open the input pipeline; its element s is the batch of step s."""
        return self._open(start_step, self.settings.data.loader_processes)

    def first_batch(self) -> dict[str, Any]:
        """Return the batch of step 0, on the host; the pipeline is closed again."""
        with contextlib.closing(self._open(0, num_processes=0)) as batches:
            return next(batches)

    def _open(self, start_step: int, num_processes: int) -> TrainIterator:
        return open_train_iterator(
            self.settings,
            self.sources,
            self.tokenizer,
            self.mesh,
            start_step=start_step,
            num_processes=num_processes,
        )


def build(settings: Settings, *, tokenizer: Tokenizer | None = None) -> Experiment:
    """Build a run; nothing is compiled yet.

    Args:
      settings: from `read_settings`.
      tokenizer: that of a resumed run; None to load or train it as `config.data` says.

    Raises:
      UserError: the first field that cannot work.
    """
    layout = check_shapes(settings)
    sources = open_training_sources(settings)
    if settings.loss.terms["itm"]["weight"]:
        check_captions_differ(sources)
    tokenizer = tokenizer or build_tokenizer(settings.data, sources)
    examples = sum(len(source) for source in sources)
    to_steps = functools.partial(
        schedule.steps, batch_size=settings.train.batch_size, examples=examples
    )
    total = settings.train.total_steps(to_steps)
    within = functools.partial(to_steps, total_steps=total)
    plan = build_plan(
        settings,
        layout,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        eot_id=tokenizer.sep_id,
        separators=_separators(settings, tokenizer),
        vocabulary=build_vocabulary(tokenizer),
        to_steps=within,
        rate=build_schedule(settings.optim, total, settings.optim.warmup_steps(within)),
    )
    check_objectives(plan.objectives, total)
    _warn_of_untrained_scores(settings, plan.objectives)
    _check_boxes(plan.objectives, sources)
    check_splittable(plan.objectives, sources, tokenizer, settings.model.text.max_tokens)
    log_epoch_borders(sources, settings.data.weights, settings.train.batch_size)
    return Experiment(
        **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)},
        tokenizer=tokenizer,
        sources=sources,
        examples=examples,
        total_steps=total,
        every={
            name: within(every, field=f"config.{name}.every")
            for name, every in settings.periods.items()
        },
    )


def _separators(settings: Settings, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the token ids of the words between phrases, if captions are joined by phrases."""
    if settings.mix.captions != "phrases":
        return ()
    found = tokenizer.single_tokens(settings.mix.separators)
    if not found:
        raise UserError(
            f"config.mix.separators={settings.mix.separators}: none of these is one token of the tokenizer, so that"
            " captions have no phrases; name words that separate them, or set config.mix.captions='joined'"
        )
    return found


def _warn_of_untrained_scores(settings: Settings, objectives: Sequence[Objective]) -> None:
    trained = {o.name for o in objectives}
    for source in (o.score for o in objectives if isinstance(o, MixedContrastive)):
        if source and source.trained and source.trained not in trained and not settings.init_from:
            logging.warning(
                "config.mix.score=%r with config.loss.%s.weight=0: nothing trains the patch predictor, so that windows"
                " are arbitrary; set config.mix.score='single_patch', or regions and a weight, or config.init_from",
                *(source.title, source.trained),
            )


def _check_boxes(objectives: Sequence[Objective], sources: Sequence[Source]) -> None:
    """Refuse scores from boxes where no image has any; without boxes, all patches of an image score the same."""
    titles = [
        o.score.title
        for o in objectives
        if isinstance(o, MixedContrastive) and isinstance(o.score, Oracle)
    ]
    if not titles:
        return
    examples = sum(len(source) for source in sources)
    annotated = sum(len(source.annotated) for source in sources)
    if not annotated:
        raise UserError(
            f"config.mix.score={titles[0]!r} takes its scores from boxes, but no example of config.data.train has"
            " regions; prepare the data with regions, or set another config.mix.score, such as 'single_patch'"
        )
    if annotated < examples:
        logging.warning(
            "config.mix.score=%r: only %d of %d images have boxes; the windows of the others are arbitrary",
            *(titles[0], annotated, examples),
        )
