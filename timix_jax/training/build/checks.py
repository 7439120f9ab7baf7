"""What can be found wrong with a configuration before any data are read."""

import functools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.data.images.augment import Augment
from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators import evaluator_class
from timix_jax.mixing.fraction import select_rows
from timix_jax.optim import schedule
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import batch_shards, check_batch_size
from timix_jax.training.build.data import uses_regions
from timix_jax.training.build.losses import build_pair_loss, check_teacher, check_weights
from timix_jax.training.build.model import abstract_params, build_layout, build_model

# Of a training whose data are not there: they decide how many steps an epoch or a percent has.
NOMINAL_EXAMPLES, NOMINAL_STEPS = 1_000_000, 100_000


def nominal_steps(config: ConfigDict) -> Callable[..., int]:
    """Steps of a duration, as if there were `NOMINAL_EXAMPLES` and `NOMINAL_STEPS`."""
    return functools.partial(
        schedule.steps,
        batch_size=config.train.batch_size,
        examples=NOMINAL_EXAMPLES,
        total_steps=NOMINAL_STEPS,
    )


def check_settings(config: ConfigDict) -> None:
    """Raises a UserError for a setting that training would refuse later, with its data at hand."""
    to_steps = nominal_steps(config)
    for field, value in (
        ("train.duration", config.train.duration),
        ("optim.warmup", config.optim.warmup),
        *((f"{name}.every", config[name].every) for name in ("log", "eval", "checkpoint")),
    ):
        to_steps(value, field=f"config.{field}")
    with error_prefix("config.augment."):
        Augment(**config.augment.to_dict())
    with error_prefix("config.eval.evaluators: "):
        for name in config.eval.evaluators:
            evaluator_class(name)


def check_shapes(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The layout, once batches and model are found to be possible; no data is read.

    Raises:
      UserError: the first field that cannot work.
    """
    layout = build_layout(config, devices)
    _check_rows(config, layout.mesh)
    _check_tokens(config)
    model = build_model(config, vocab_size=1, pad_id=0)
    params = abstract_params(model)
    layout = layout.with_axes(model.parameter_axes())
    with error_prefix("config.mesh: "):
        layout.shardings(params)
    check_weights(config)
    check_teacher(config)
    build_pair_loss(config, None)
    return layout


def _check_rows(config: ConfigDict, mesh: Mesh) -> None:
    """Every batch of a step divides over the devices, and each microbatch of it."""
    batches = {"config.train.batch_size": config.train.batch_size}
    if uses_regions(config):
        if not config.regions.batch_size:
            raise UserError(
                "config.loss.pta.weight is above 0: give config.regions.batch_size, the annotated images"
                " of a step, such as a quarter of config.train.batch_size"
            )
        batches["config.regions.batch_size"] = config.regions.batch_size
    shards, parts = batch_shards(mesh), config.train.accumulate
    for field, rows in batches.items():
        check_batch_size(rows, mesh, field=field)
        if rows % (shards * parts):
            raise UserError(
                f"{field}={rows}: does not divide into config.train.accumulate={parts} parts on each of {shards} "
                f"devices; use a multiple of {shards * parts}"
            )
    _check_mixed_rows(config, shards)


def _check_tokens(config: ConfigDict) -> None:
    """The texts of regions fit the text encoder, and hold words: two tokens are [CLS] and [SEP]."""
    tokens, limit = config.regions.max_tokens, config.model.text.max_tokens
    if uses_regions(config) and tokens and not 3 <= tokens <= limit:
        raise UserError(
            f"config.regions.max_tokens={tokens}: give 3 to {limit} (config.model.text.max_tokens), or 0 for {limit}"
        )


def within_shard(config: ConfigDict) -> bool:
    """Whether images are mixed with those of the same device only."""
    return bool(config.mix.options.get(config.mix.mixer, {}).get("within_shard", False))


def _check_mixed_rows(config: ConfigDict, shards: int) -> None:
    """The mixed rows divide as the batch does, and each has another one to be paired with."""
    mix, parts, batch_size = config.mix, config.train.accumulate, config.train.batch_size
    if mix.mixer == "none" or not 0 < mix.fraction <= 1:
        return
    if batch_size < 2:
        raise UserError(
            f"config.train.batch_size={batch_size}: one image has no partner to be mixed with; give at least 2, or"
            " set config.mix.mixer='none'"
        )
    if mix.fraction * batch_size < 2:
        raise UserError(
            f"config.mix.fraction={mix.fraction}: not two of {batch_size} images, and one has no partner; "
            f"give at least {2 / batch_size:g}"
        )
    rows = len(select_rows(batch_size, mix.fraction)) if mix.placement == "extra" else batch_size
    if rows % (shards * parts):
        raise UserError(
            f"config.mix.fraction={mix.fraction}: {rows} of {batch_size} images do not divide over "
            f"{shards} devices × {parts} parts; choose a share that gives a multiple of {shards * parts}"
        )
    if within_shard(config) and rows // shards < 2:
        raise UserError(
            f"config.mix.options.{mix.mixer}.within_shard=True: {rows} mixed images over {shards} devices leave each of"
            " them one, which has no partner there; set it to False, or raise config.train.batch_size"
        )
