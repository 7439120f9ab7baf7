"""Another run's parameters for a model with another tokenizer or another shared space."""

from typing import Any

import jax
import numpy as np
from etils import epath

from timix_jax import checkpointing
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.parallel.paths import map_with_names, path_names
from timix_jax.pretrained.report import Report

_WORDS = "text/word_embed/embedding"


def word_rows(found: epath.Path, tokenizer: str) -> np.ndarray | None:
    """Return, for each id of a tokenizer, the id of the same word in a checkpoint's, or -1.

    Args:
      found: a step folder.
      tokenizer: as JSON.

    Returns:
      int64 (V,); None if both tokenizers are the same.

    Raises:
      UserError: they split words in different ways, so that equal texts do not stand for equal words; or they have no
        word in common.
    """
    stored = checkpointing.read_meta(found).get("tokenizer")
    if stored is None:
        raise UserError(f"{found} holds no tokenizer: it was not written by a training")
    old, new = Tokenizer.from_json(stored), Tokenizer.from_json(tokenizer)
    # Not as text: earlier versions stored it without the template that adds the special tokens.
    if old == new:
        return None
    if old.kind != new.kind or old.own["clean"] != new.own["clean"]:
        raise UserError(
            f"{found} was trained with another tokenizer, of another kind, so that its words cannot be mapped by their"
            " text; set config.data.tokenizer to the tokenizer.json of that run"
        )
    there = old.vocabulary()
    rows = np.full(new.vocab_size, -1, np.int64)
    for text, index in new.vocabulary().items():
        rows[index] = there.get(text, -1)
    if not (rows >= 0).any():
        raise UserError(
            f"{found} was trained with another tokenizer, which has no word in common; set config.data.tokenizer to the"
            " tokenizer.json of that run"
        )
    return rows


def adapt(
    saved: Any, wanted: Any, rows: np.ndarray | None, *, source: str = ""
) -> tuple[Any, Report]:
    """Return a checkpoint's parameters in the shapes of a model.

    Args:
      saved: nested dicts of arrays or of shapes.
      wanted: the model's parameters, of which those stay that lead to another space.
      rows: from `word_rows`; the embeddings of words that the checkpoint does not know are drawn.
      source: for the report.
    """
    mine = dict(path_names(wanted))
    fresh, notes = [], []

    def fit(name: str, leaf: Any) -> Any:
        like = mine.get(name)
        if like is None:
            return leaf
        if "/projection/" in name and tuple(leaf.shape) != tuple(like.shape):
            fresh.append(name)
            return like
        if name == _WORDS and rows is not None:
            kept = int((rows >= 0).sum())
            notes.append(
                f"{kept:,} of {len(rows):,} words ({kept / len(rows):.0%}) keep the embedding of the same word; the"
                " others are fresh"
            )
            return _mapped(leaf, rows)
        return leaf

    fitted = map_with_names(fit, saved)
    loaded = [name for name, _ in path_names(fitted) if name not in fresh]
    return fitted, Report(source, loaded, fresh=fresh, notes=notes)


def _mapped(table: Any, rows: np.ndarray) -> Any:
    shape = (len(rows), table.shape[1])
    if isinstance(table, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, table.dtype)
    # Every process draws the same rows.
    mapped = np.random.default_rng(0).normal(0, 0.02, shape).astype(table.dtype)
    known = rows >= 0
    mapped[known] = np.asarray(table)[rows[known]]
    return mapped
