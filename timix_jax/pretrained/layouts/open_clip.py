"""open_clip's CLIP, and OpenAI's as open_clip writes it."""

from collections.abc import Mapping
from typing import Any

from timix_jax.pretrained.layouts import open_clip_bert as bert_text
from timix_jax.pretrained.layouts import open_clip_towers as towers
from timix_jax.pretrained.layouts.base import Contents, Shapes, pair_scalars
from timix_jax.pretrained.weight_files import Shape, WeightFiles

TITLE = "open_clip's CLIP"


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for the names of a CLIP whose image tower is a ViT."""
    return (
        "visual.conv1.weight" in shapes and "visual.transformer.resblocks.0.ln_1.weight" in shapes
    )


def read(files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
    """Describe both towers, the temperature and the bias."""
    config = towers.model_config(files)
    image_settings, image = towers.image_tower(shapes, config, run)
    if bert_text.recognises(shapes):
        text_settings, text = bert_text.text_tower(files, shapes, config, run)
    else:
        text_settings, text = towers.text_tower(shapes, config, run)
    space = (
        shapes["visual.proj"][1] if "visual.proj" in shapes else shapes["visual.conv1.weight"][0]
    )
    return Contents(
        {**image_settings, **text_settings, "model.embed_dim": space},
        image,
        text,
        pair_scalars(shapes, "logit_scale", "logit_bias"),
        towers.pixels(files),
        unread=r"(input_resolution|context_length|vocab_size|(text\.)?attn_mask)$|.*position_ids$",
        scopes=("visual.", "text.", "transformer."),
    )
