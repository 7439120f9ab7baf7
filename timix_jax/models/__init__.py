"""Models as pure functions over parameter trees, and the registry that names them.

A new model is one file with a frozen dataclass that follows `protocols.ImageTextModel`, and one line in `MODELS`. Its
fields become `config.model.options.NAME`, except those in `RUN_FIELDS`. The rest of the package knows models by their
protocols alone. May import parallel and errors; the only package with Flax layers.
"""

import dataclasses

from timix_jax.errors import UserError
from timix_jax.models.albef import Albef
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.mplug import Mplug
from timix_jax.models.protocols import ImageTextModel

__all__ = [
    "MODELS",
    "RUN_FIELDS",
    "TRAINING_PARTS",
    "contains_towers",
    "field_names",
    "model_class",
]

MODELS: dict[str, type[ImageTextModel]] = {
    "dual_encoder": DualEncoder,
    "albef": Albef,
    "mplug": Mplug,
}

RUN_FIELDS = (
    *("image_size", "max_tokens", "vocab_size", "pad_id", "eot_id", "embed_dim"),
    *("temperature_init", "temperature_range", "logit_bias_init"),
    *("patch_dropout", "tpp_layer", "word_projection", "act", "dtype", "scan", "remat"),
    *("microbatches", "layout"),
)
"""Fields that a run provides to the models that have them; they are not options."""

TRAINING_PARTS = frozenset({"word_projection"})
"""Parts of the parameters that a loss alone reads; they exist in runs with this loss."""


def model_class(name: str) -> type[ImageTextModel]:
    """Return the class of the model called `name`; a UserError lists the known ones."""
    if name not in MODELS:
        raise UserError(f"model.name={name!r} is unknown; use one of {', '.join(MODELS)}")
    return MODELS[name]


def field_names(kind: type) -> set[str]:
    """Return the names of a model's constructor arguments."""
    return {f.name for f in dataclasses.fields(kind) if f.init}


def contains_towers(name: str) -> bool:
    """Return True for the dual encoder and the models that contain one, whose towers have the same parameters."""
    kind = MODELS.get(name)
    return kind is DualEncoder or (kind is not None and "dual" in field_names(kind))
