"""How a run begins: resumed, from another run's weights, or fresh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from timix_jax import checkpointing
from timix_jax.checkpointing import Checkpointer, step_folders
from timix_jax.config import flatten
from timix_jax.data.sources import describe_sources
from timix_jax.errors import UserError, located
from timix_jax.parallel.mesh import batch_shards
from timix_jax.parallel.sharding import with_shardings
from timix_jax.pretrained.compatibility import check_same_model
from timix_jax.pretrained.position_embeddings import fit_position_embeddings
from timix_jax.runtime.workdir import CHECKPOINTS_FOLDER, absolute, config_differences
from timix_jax.training.build import Experiment
from timix_jax.training.build.checks import within_shard
from timix_jax.training.state import TrainState


def initial_state(experiment: Experiment, checkpointer: Checkpointer) -> tuple[TrainState, bool]:
    """The state to train from, in order of precedence; and whether it was resumed.

    1. The newest valid checkpoint of this working folder: everything, bit for bit.
    2. `config.init_from`: the weights of another run, position embeddings fitted to the new grid; moments and step
       start anew.
    3. Fresh parameters from `config.seed`.
    """
    abstract = experiment.abstract_state
    with located("config.mesh: "):
        shardings = experiment.layout.shardings(abstract)
    step = checkpointer.latest_valid()
    if step is not None:
        _check_same_data(experiment, step, checkpointer)
        _warn_of_other_partners(experiment, checkpointer.read_meta(step))
        state, _ = checkpointer.restore(step, with_shardings(abstract, shardings))
        logging.info("resumed from checkpoint %d in %s", step, checkpointer.directory)
        return state, True
    # As data: a key would have to be on the devices of this process only.
    key_data = np.asarray(jax.random.key_data(jax.random.key(experiment.seed)))
    create = lambda data: experiment.create_state(jax.random.wrap_key_data(data))
    state = jax.jit(create, out_shardings=shardings)(key_data)
    if experiment.init_from:
        state = _with_weights(state, experiment.init_from, abstract.params)
        logging.info("initial weights from %s", experiment.init_from)
    else:
        logging.info("fresh parameters from seed %d", experiment.seed)
    return state, False


def resumes_checkpoint(
    workdir: epath.Path, config: Mapping[str, Any], *, ignore: tuple[str, ...]
) -> bool:
    """Whether a working folder whose config.json is lost holds a checkpoint to go on from.

    Raises:
      UserError: there is one, of a run with another configuration (flat; fields in `ignore` may differ).
    """
    meta = _newest_meta(workdir)
    if meta is None:
        return False
    if differences := config_differences(meta["config"], config, ignore):
        raise UserError(
            f"the checkpoints in --workdir={workdir} belong to a run with another configuration"
            f" ({'; '.join(differences[:5])}): choose another --workdir, or set the fields back"
        )
    return True


def stored_tokenizer(workdir: epath.Path) -> str:
    """The tokenizer of the newest checkpoint of a working folder; empty where there is none."""
    meta = _newest_meta(workdir)
    return "" if meta is None else meta["tokenizer"]


def _newest_meta(workdir: epath.Path) -> dict[str, Any] | None:
    """Of the newest valid checkpoint. To be called by one process alone, hence not by a Checkpointer."""
    directory = absolute(workdir / CHECKPOINTS_FOLDER)
    step = step_folders.find_latest(directory).step
    return (
        None if step is None else checkpointing.read_meta(step_folders.step_path(directory, step))
    )


def _check_same_data(experiment: Experiment, step: int, checkpointer: Checkpointer) -> None:
    """Examples or words that are not those of the steps before would go unnoticed."""
    meta = checkpointer.read_meta(step)
    there, now = meta["data"].get("sources"), describe_sources(experiment.sources)
    if there is not None and there != now:
        changed = [
            f"{source.name}: {old['examples']:,} examples there, {new['examples']:,} others now"
            for source, old, new in zip(experiment.sources, there, now, strict=True)
            if old != new
        ]
        raise UserError(
            f"checkpoint {step} in {checkpointer.directory} was trained on other data ({'; '.join(changed)}): put the"
            " data back, or choose another --workdir"
        )
    if meta["tokenizer"] != experiment.tokenizer.to_json():
        raise UserError(
            f"tokenizer.json beside {checkpointer.directory} is not the tokenizer of checkpoint {step}: delete it, and"
            " it is taken from there"
        )


def _warn_of_other_partners(experiment: Experiment, meta: dict[str, Any]) -> None:
    there, now = meta.get("batch_shards"), batch_shards(experiment.mesh)
    if within_shard(experiment.config) and there not in (None, now):
        logging.warning(
            "config.mix.options.%s.within_shard=True: images are mixed within %d shards of the batch now and were"
            " within %d before, so that the losses are not those of a run that stayed there",
            *(experiment.config.mix.mixer, now, there),
        )


def check_init_from(experiment: Experiment, path: epath.PathLike) -> None:
    """Raises a UserError unless another run's weights fit this one; reads shapes only.

    Position embeddings may be of another grid. The tokenizer must be the same: with another one each word embedding
    would stand for another word. So must settings that change what the weights do and not their shapes.
    """
    found = checkpointing.find_checkpoint(path)
    if checkpointing.read_meta(found).get("tokenizer") != experiment.tokenizer.to_json():
        raise UserError(
            f"{found} was trained with another tokenizer, so that its word embeddings do not fit; set "
            "config.data.tokenizer to the tokenizer.json of that run"
        )
    abstract = experiment.abstract_state.params
    fit = lambda saved: fit_position_embeddings(saved, abstract)
    fitted = jax.eval_shape(fit, checkpointing.saved_shapes(found, "params"))
    checkpointing.check_same_arrays(found, fitted, abstract)
    check_same_model(found, flatten(experiment.config), to_train=True)


def _with_weights(state: TrainState, path: epath.PathLike, abstract_params: Any) -> TrainState:
    saved = checkpointing.restore_params(path)
    params = fit_position_embeddings(saved, abstract_params)
    checkpointing.check_same_arrays(path, params, abstract_params)
    params = jax.tree.map(_put, params, state.params)
    # Copied: both are donated to the step, and one buffer cannot be given twice.
    ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema_params=ema)


def _put(new: Any, old: jax.Array) -> jax.Array:
    """`new`, whole on every process, placed as `old` is."""
    values = np.asarray(new)
    return jax.make_array_from_callback(values.shape, old.sharding, lambda index: values[index])
