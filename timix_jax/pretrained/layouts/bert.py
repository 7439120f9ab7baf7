"""Hugging Face's BertModel and BertForMaskedLM, and sentence encoders such as MiniLM: a text tower."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import huggingface as hf
from timix_jax.pretrained.layouts.base import Contents, Shapes, stated_or_given
from timix_jax.pretrained.leaves import (
    POSITIONS,
    Leaf,
    Leaves,
    attention_out,
    count_layers,
    linear,
    norm,
    separate,
    stacked,
)
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "Hugging Face's BertModel"

_WORDS = "embeddings.word_embeddings.weight"
_FIELD = "model.text.heads"


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for BERT's names, with or without the prefix `bert.`."""
    return _WORDS in shapes or f"bert.{_WORDS}" in shapes


def _block(at: str, heads: int, norm_names: Mapping[str, str] = MappingProxyType({})) -> Leaves:
    """Return the leaves of a block; older files name the norms' parameters otherwise."""
    return {
        **separate(f"{at}attention.self", ("query", "key", "value"), heads),
        **attention_out(f"{at}attention.output.dense", heads),
        **norm(f"{at}attention.output.LayerNorm", "norm1", **norm_names),
        **linear(f"{at}intermediate.dense", "mlp/up"),
        **linear(f"{at}output.dense", "mlp/down"),
        **norm(f"{at}output.LayerNorm", "norm2", **norm_names),
    }


def check_kind(config: Mapping[str, Any] | None) -> None:
    """Refuse relatives of BERT, of which only the names are the same."""
    kind = (config or {}).get("model_type", "bert")
    if kind != "bert":
        raise UserError(f"is a {kind!r} (config.json), of which only the names are BERT's")
    embedding_type = (config or {}).get("position_embedding_type", "absolute")
    if embedding_type != "absolute":
        raise UserError(
            f"has positions of type {embedding_type!r}; the text tower has absolute ones"
        )


def tower(
    config: Mapping[str, Any] | None, shapes: Shapes, run: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Any], Leaves]:
    """Return settings and leaves of the tower whose names start with `prefix`."""
    check_kind(config)
    at, layer = f"{prefix}embeddings.", f"{prefix}encoder.layer.{{}}."
    old = f"{at}LayerNorm.gamma" in shapes
    norm_names = {"weight": "gamma", "bias": "beta"} if old else {}
    stated = hf.variant(config, "text", act="gelu", eps=1e-12, heads=12)
    heads = stated_or_given(stated[_FIELD], run, _FIELD)
    layers = count_layers(shapes, f"{layer}intermediate.dense.weight")
    positions, width = shapes[f"{at}position_embeddings.weight"]
    leaves = leaves_of(prefix, layers, heads, norm_names)
    # Every caption is of the first type, whose embedding is the same for all tokens.
    leaves["pos_embed"] = Leaf(
        (f"{at}position_embeddings.weight", f"{at}token_type_embeddings.weight"),
        lambda table, types: (table + types[0])[None],
    )
    settings = {
        **stated,
        _FIELD: heads,
        "model.text.max_tokens": positions,
        "model.text.width": width,
        "model.text.depth": layers,
        "model.text.mlp_dim": shapes[f"{layer.format(0)}intermediate.dense.weight"][0],
        "model.text.pre_norm": False,
        "model.text.causal": False,
        "model.text.pad_mask": True,
    }
    return settings, leaves


def leaves_of(
    prefix: str, layers: int, heads: int, norm_names: Mapping[str, str] = MappingProxyType({})
) -> Leaves:
    """Return the leaves of the tower; its positions are those without token types."""
    return {
        "word_embed/embedding": Leaf((f"{prefix}{_WORDS}",)),
        "pos_embed": Leaf((f"{prefix}embeddings.position_embeddings.weight",), POSITIONS),
        **norm(f"{prefix}embeddings.LayerNorm", "embed_norm", **norm_names),
        **stacked(_block(f"{prefix}encoder.layer.{{}}.", heads, norm_names), layers),
    }


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe the text tower; the projection stays fresh, and how to pool is the run's choice."""
    prefix = "" if _WORDS in shapes else "bert."
    settings, leaves = tower(files.json("config.json"), shapes, run, prefix)
    return Contents(
        settings,
        text=leaves,
        unread=rf".*position_ids$|{prefix}pooler\.",
        scopes=(f"{prefix}embeddings.", f"{prefix}encoder."),
        notes=_pooling_notes(files, run),
    )


def _pooling_notes(files: WeightFiles, run: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn if a sentence encoder was trained with mean pooling and the run pools otherwise."""
    pooling = files.json("1_Pooling/config.json") or {}
    pool = run.get("model.text.pool")
    if run and pooling.get("pooling_mode_mean_tokens") and pool != "mean":
        return (
            f"they were trained with the mean of all tokens, and config.model.text.pool={pool!r}: its [CLS] is no"
            " sentence vector yet",
        )
    return ()
