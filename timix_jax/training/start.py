"""The state that a run starts from: resumed, with another run's weights, or fresh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from timix_jax.checkpointing import Checkpointer
from timix_jax.data.sources import describe_sources
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError, error_prefix
from timix_jax.models.protocols import ImageTextModel
from timix_jax.parallel.mesh import batch_shards
from timix_jax.parallel.sharding import with_shardings
from timix_jax.pretrained import INIT_FIELDS, load_params
from timix_jax.training.build import Experiment
from timix_jax.training.state import TrainState


def initial_state(run: Experiment, checkpointer: Checkpointer) -> tuple[TrainState, bool]:
    """Return the state to train from, and True if it was resumed.

    In order of precedence:
    1. The newest valid checkpoint of this working folder: everything, bit for bit.
    2. `config.init_from` and those of the towers: other weights, see `timix_jax.pretrained`; moments and step are
       fresh.
    3. Fresh parameters from `config.seed`.
    """
    abstract = run.abstract_state
    with error_prefix("config.mesh: "):
        shardings = run.layout.shardings(abstract)
    step = checkpointer.latest_valid()
    if step is not None:
        _check_same_data(run, step, checkpointer)
        _warn_of_other_partners(run, checkpointer.read_meta(step))
        restored = with_shardings(abstract, shardings)
        state, _ = checkpointer.restore(step, restored, unused=_is_moment)
        logging.info("resumed from checkpoint %d in %s", step, checkpointer.directory)
        return state, True
    # The key travels as its data: a key array would live on the devices of this process only.
    key_data = np.asarray(jax.random.key_data(jax.random.key(run.seed)))
    create = lambda data: run.create_state(jax.random.wrap_key_data(data))
    state = jax.jit(create, out_shardings=shardings)(key_data)
    for part, path in run.initial_weights.items():
        with error_prefix(f"config.{INIT_FIELDS[part]}: "):
            params = load_params(
                path,
                state.params,
                tokenizer=run.tokenizer.to_json(),
                config=run.settings.flat,
                part=part,
            )
            _check_temperature(run.model, params)
        state = _with_params(state, params)
        logging.info("initial weights%s from %s", f" of the {part} tower" if part else "", path)
    if not run.initial_weights:
        logging.info("fresh parameters from seed %d", run.seed)
    return state, False


def _is_moment(name: tuple[str, ...]) -> bool:
    # Frozen parameters had moments in earlier versions. The configuration is the same, so no other array is left over.
    return name[0] == "opt_state"


def _with_params(state: TrainState, params: Any) -> TrainState:
    # The average is a copy: the step donates both, and a buffer cannot be donated twice.
    ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema_params=ema)


def _check_temperature(model: ImageTextModel, params: Any) -> None:
    """Refuse weights whose τ the first step would clamp, and with it all that they say of pairs."""
    theirs, ours = (float(model.temperature(p)) for p in (params, model.constrain(params)))
    if abs(theirs - ours) > 1e-4 * ours:
        raise UserError(
            f"the weights have the temperature {theirs:.4g}, which config.model.temperature_range would clamp to"
            f" {ours:.4g}: widen it"
        )


def _check_same_data(run: Experiment, step: int, checkpointer: Checkpointer) -> None:
    """Refuse other examples or another tokenizer, which would go unnoticed."""
    meta = checkpointer.read_meta(step)
    stored, current = meta["data"].get("sources"), describe_sources(run.sources)
    if stored is not None and stored != current:
        changed = [
            f"{source.name}: {old['examples']:,} examples there, {new['examples']:,} others now"
            for source, old, new in zip(run.sources, stored, current, strict=True)
            if old != new
        ]
        raise UserError(
            f"checkpoint {step} in {checkpointer.directory} was trained on other data ({'; '.join(changed)}): put the"
            " data back, or choose another --workdir"
        )
    # Not as text: earlier versions stored it without the template that adds the special tokens.
    if Tokenizer.from_json(meta["tokenizer"]) != run.tokenizer:
        raise UserError(
            f"tokenizer.json next to {checkpointer.directory} is not the tokenizer of checkpoint {step}: delete it, and"
            " the checkpoint's is used"
        )


def _warn_of_other_partners(run: Experiment, meta: dict[str, Any]) -> None:
    stored, current = meta.get("batch_shards"), batch_shards(run.mesh)
    if run.settings.mix.within_shard and stored not in (None, current):
        logging.warning(
            "config.mix.options.%s.within_shard=True: images are mixed within %d shards of the batch now and were"
            " within %d before, so the losses will differ from those of a run that kept its shards",
            *(run.settings.mix.mixer, current, stored),
        )
