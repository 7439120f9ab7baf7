"""Settings of the dual encoder that cannot work, refused before anything is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timix_jax.errors import UserError
from timix_jax.models.stems import STEMS
from timix_jax.models.variants import check_variants

if TYPE_CHECKING:
    from timix_jax.models.dual_encoder import DualEncoder


def check_dual_encoder(model: DualEncoder) -> None:
    """Raise a UserError that names the first field that cannot work."""
    v, t = model.image, model.text
    if v.image_size % v.patch:
        raise UserError(
            f"model.image.size={v.image_size} is not a multiple of model.image.patch={v.patch}; "
            f"use {v.image_size // v.patch * v.patch} or {(v.image_size // v.patch + 1) * v.patch}"
        )
    for name, width, heads in (("image", v.width, v.heads), ("text", t.width, t.heads)):
        if width % heads:
            raise UserError(
                f"model.{name}.width={width} does not divide by model.{name}.heads={heads}"
            )
    if not 0 <= model.tpp_layer < v.depth:
        raise UserError(
            f"model.tpp_layer={model.tpp_layer} is not a block of the image tower: "
            f"use 0 to {v.depth - 1}"
        )
    if v.stem not in STEMS:
        raise UserError(
            f"model.image.stem={v.stem!r} is unknown; use {' or '.join(map(repr, STEMS))}"
        )
    if v.stem == "hierarchical" and v.patch % 4:
        raise UserError(
            f"model.image.patch={v.patch}: model.image.stem='hierarchical' needs a multiple of 4 pixels"
        )
    if not 0 <= model.patch_dropout < 1:
        raise UserError(
            f"model.image.patch_dropout={model.patch_dropout} is not a share of the patches: use 0 (none) "
            "or more, below 1"
        )
    if not 0 <= model.text_dropout < 1:
        raise UserError(
            f"model.text.dropout={model.text_dropout} is not a share of the values: use 0 (none) or more, below 1"
        )
    if v.width % 4:
        raise UserError(f"model.image.width={v.width} must be a multiple of 4")
    check_variants(
        model.image_variant,
        model.text_variant,
        image_pool=model.pool,
        widths=(v.width, t.width),
        space=model.embed_dim,
    )
    if model.text_variant.pool == "eot" and model.eot_id < 0:
        raise UserError("model.text.pool='eot' needs eot_id, the token that ends a caption")
