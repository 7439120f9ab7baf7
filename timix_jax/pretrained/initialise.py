"""Parameters from another run of this project, as `config.init_from` names it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from timix_jax import checkpointing
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.pretrained.compatibility import check_same_model
from timix_jax.pretrained.position_embeddings import fit_position_embeddings


def check_init_from(
    path: epath.PathLike, abstract_params: Any, *, tokenizer: str, config: Mapping[str, Any]
) -> None:
    """Refuse weights that do not fit a run, reading their shapes only.

    The position embeddings may have another grid. The tokenizer must be the same, or each word embedding would stand
    for another word; so must the settings that change what the weights do but not their shapes.

    Args:
      path: a working folder, its checkpoints folder, or a step in it.
      abstract_params: shapes of the run's parameters.
      tokenizer: the run's, as JSON.
      config: the run's, flat.

    Raises:
      UserError: names what does not fit.
    """
    check = lambda found: _check_checkpoint(found, abstract_params, tokenizer, config)
    checkpointing.read_newest(path, check)


def _check_checkpoint(
    found: epath.Path, abstract_params: Any, tokenizer: str, config: Mapping[str, Any]
) -> None:
    stored = checkpointing.read_meta(found).get("tokenizer")
    # Not as text: earlier versions stored it without the template that adds the special tokens.
    if stored is None or Tokenizer.from_json(stored) != Tokenizer.from_json(tokenizer):
        raise UserError(
            f"{found} was trained with another tokenizer, so its word embeddings do not fit; set config.data.tokenizer"
            " to the tokenizer.json of that run"
        )
    fit = lambda saved: fit_position_embeddings(saved, abstract_params)
    fitted = jax.eval_shape(fit, checkpointing.saved_shapes(found, "params"))
    checkpointing.check_same_arrays(found, fitted, abstract_params)
    check_same_model(found, config, to_train=True)


def load_params(path: epath.PathLike, params: Any) -> Any:
    """Load a checkpoint's parameters, adapted to the shapes and placed like `params`.

    Args:
      path: as in `check_init_from`.
      params: the run's freshly initialised parameters; a place for what a checkpoint does not provide.

    Raises:
      UserError: names the arrays that differ.
    """
    loaded = fit_position_embeddings(checkpointing.restore_params(path), params)
    checkpointing.check_same_arrays(path, loaded, params)
    return jax.tree.map(_placed_like, loaded, params)


def _placed_like(values: Any, reference: jax.Array) -> jax.Array:
    """Put `values`, which every process holds in full, where `reference` is."""
    array = np.asarray(values)
    return jax.make_array_from_callback(array.shape, reference.sharding, lambda index: array[index])
