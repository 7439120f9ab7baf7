"""Parameters from other weights, as `config.init_from` names them: another run of this project, or published ones."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from timix_jax import checkpointing
from timix_jax.errors import UserError
from timix_jax.models import TRAINING_PARTS
from timix_jax.pretrained.adapt import adapt, word_rows
from timix_jax.pretrained.compatibility import check_same_model, shares_towers
from timix_jax.pretrained.position_embeddings import fit_position_embeddings
from timix_jax.pretrained.public_weights import read_public
from timix_jax.pretrained.report import Report
from timix_jax.pretrained.weight_files import is_weights

INIT_FIELDS = {"": "init_from", "image": "init_from_image", "text": "init_from_text"}
"""Part of the model (all of it, or a tower) → the field of the configuration that names its weights."""


def check_init_from(
    path: epath.PathLike,
    abstract_params: Any,
    *,
    tokenizer: str,
    config: Mapping[str, Any],
    part: str = "",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Refuse weights that do not fit a run, reading names, shapes and configuration only.

    The position embeddings may have another grid, and the shared space another width. Another tokenizer must split
    words in the same way, so that its words can be mapped by their text. Settings that change what the weights do but
    not their shapes must be the same.

    Args:
      path: a working folder, its checkpoints folder, or a step in it; or published weights, a .safetensors or .npz file
        or a folder with one.
      abstract_params: shapes of the run's parameters.
      tokenizer: the run's, as JSON.
      config: the run's, flat.
      part: `image` or `text` for that tower alone; empty for all that the weights have.
      defaults: of all fields of the configuration, for those that are newer than a checkpoint.

    Raises:
      UserError: names what does not fit.
    """
    if is_weights(path):
        read_public(path, run=config, part=part).check(abstract_params)
        return

    def check(found: epath.Path) -> None:
        rows = None if part == "image" else word_rows(found, tokenizer)
        wanted = _part_of(abstract_params, part)
        shapes = _part_of(checkpointing.saved_shapes(found, "params"), part)
        shapes, wanted = _common(found, shapes, wanted, config)
        fitted = jax.eval_shape(lambda saved: fit_position_embeddings(saved, wanted), shapes)
        checkpointing.check_same_arrays(found, adapt(fitted, wanted, rows)[0], wanted)
        check_same_model(found, config, to_train=True, part=part, defaults=defaults)

    checkpointing.read_newest(path, check)


def _part_of(params: Any, part: str) -> Any:
    if not part:
        return params
    if part not in params:
        raise UserError(f"the model has no part {part!r}, but {', '.join(params)}")
    return {part: params[part]}


def load_params(
    path: epath.PathLike,
    params: Any,
    *,
    tokenizer: str = "",
    config: Mapping[str, Any] | None = None,
    part: str = "",
) -> Any:
    """Load parameters, adapted to the shapes and placed like `params`; the log says what became of each.

    Args:
      path: as in `check_init_from`.
      params: the run's freshly initialised parameters, a place for what the weights do not provide. They are used up:
        published weights replace them one by one.
      tokenizer: the run's, as JSON; empty for that of the weights.
      config: the run's, flat; needed for published weights.
      part: as in `check_init_from`.

    Raises:
      UserError: names the arrays that differ or are damaged.
    """
    if is_weights(path):
        params, report = read_public(path, run=config or {}, part=part).load(params)
        _log(report)
        return params

    def read(found: epath.Path) -> tuple[Any, Any, Report]:
        rows = word_rows(found, tokenizer) if tokenizer and part != "image" else None
        saved, wanted = _part_of(checkpointing.restore_params(found), part), _part_of(params, part)
        common, mine = _common(found, saved, wanted, config or {})
        fitted = fit_position_embeddings(common, mine)
        loaded, report = adapt(fitted, mine, rows, source=str(found))
        report = dataclasses.replace(
            report,
            fresh=[*report.fresh, *sorted(wanted.keys() - mine.keys())],
            unused=sorted(saved.keys() - common.keys()),
        )
        return loaded, mine, report

    loaded, wanted, report = checkpointing.read_newest(path, read)
    checkpointing.check_same_arrays(path, loaded, wanted)
    if report.fresh or report.unused or report.notes:
        _log(report)
    return {**params, **jax.tree.map(_placed_like, loaded, wanted)}


def _common(found: epath.Path, saved: Any, wanted: Any, config: Mapping[str, Any]) -> Any:
    """Return the saved and the wanted parts that two models with the same towers share; all parts of one model.

    A part that only a loss reads may be missing on either side.
    """
    stored = checkpointing.read_meta(found).get("config", {})
    left_out = saved.keys() ^ wanted.keys()
    if not config or not shares_towers(stored, config):
        left_out &= TRAINING_PARTS
    return tuple(
        {name: tree[name] for name in tree if name not in left_out} for tree in (saved, wanted)
    )


def _log(report: Report) -> None:
    for line in report.lines():
        if line.startswith("note: "):
            logging.warning("%s", line.removeprefix("note: "))
        else:
            logging.info("%s", line)


def _placed_like(values: Any, reference: jax.Array) -> jax.Array:
    """Put `values`, which every process holds in full, where `reference` is."""
    if values is reference:  # it stays as it is
        return reference
    array = np.asarray(values)
    return jax.make_array_from_callback(array.shape, reference.sharding, lambda index: array[index])
