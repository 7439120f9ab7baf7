"""What the layouts of Hugging Face's CLIP and SigLIP share: blocks, embeddings and configuration files."""

from collections.abc import Mapping
from typing import Any

from timix_jax.pretrained.layouts.base import (
    UNSTATED,
    Shapes,
    Unstated,
    activation_name,
    stated_or_given,
)
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
from timix_jax.pretrained.pixels import Pixels
from timix_jax.pretrained.weight_files import WeightFiles

Settings = dict[str, Any]

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def processor_config(files: WeightFiles) -> dict[str, Any] | None:
    """Return what the image processor's file states; None if there is none."""
    for name in _PROCESSORS:
        content = files.json(name) or {}
        content = content.get("image_processor", content)
        if "image_mean" in content and "image_std" in content:
            return dict(content)
    return None


def pixels(files: WeightFiles) -> Pixels | Unstated:
    """Return the pixel normalisation that the image processor's file states."""
    content = processor_config(files)
    if content is None:
        return UNSTATED
    return Pixels(tuple(content["image_mean"]), tuple(content["image_std"]))


def variant(
    config: Mapping[str, Any] | None, tower: str, *, act: str, eps: float, heads: int
) -> Settings:
    """Return activation, epsilon and heads; Hugging Face leaves out of its files what equals these defaults."""
    if config is None:
        return {f"model.{tower}.{name}": UNSTATED for name in ("act", "eps", "heads")}
    stated_act = config.get("hidden_act", act)
    return {
        f"model.{tower}.act": activation_name(stated_act, "config.json"),
        f"model.{tower}.eps": float(config.get("layer_norm_eps", eps)),
        f"model.{tower}.heads": int(config.get("num_attention_heads", heads)),
    }


def encoder_settings(
    shapes: Shapes, prefix: str, tower: str, settings: Settings, run: Mapping[str, Any]
) -> Settings:
    """Return the settings of the blocks `PREFIXencoder.layers.…`."""
    at = f"{prefix}encoder.layers.{{}}."
    field = f"model.{tower}.heads"
    heads = stated_or_given(settings[field], run, field)
    layers = count_layers(shapes, f"{at}layer_norm1.weight")
    return {
        field: heads,
        f"model.{tower}.depth": layers,
        f"model.{tower}.mlp_dim": shapes[f"{at.format(0)}mlp.fc1.weight"][0],
    }


def encoder_leaves(prefix: str, layers: int, heads: int) -> Leaves:
    """Return the leaves of the blocks."""
    at = f"{prefix}encoder.layers.{{}}."
    block = {
        **norm(f"{at}layer_norm1", "norm1"),
        **norm(f"{at}layer_norm2", "norm2"),
        **separate(f"{at}self_attn", ("q_proj", "k_proj", "v_proj"), heads),
        **attention_out(f"{at}self_attn.out_proj", heads),
        **linear(f"{at}mlp.fc1", "mlp/up"),
        **linear(f"{at}mlp.fc2", "mlp/down"),
    }
    return stacked(block, layers)


def text_settings(shapes: Shapes) -> Settings:
    """Return the settings that follow from the text tower's embeddings."""
    positions, width = shapes["text_model.embeddings.position_embedding.weight"]
    return {
        "model.text.max_tokens": positions,
        "model.text.width": width,
        "model.text.pre_norm": True,
    }


def text_end_leaves() -> Leaves:
    """Return the leaves of the text tower's embeddings and last norm."""
    at = "text_model.embeddings."
    return {
        "word_embed/embedding": Leaf((f"{at}token_embedding.weight",)),
        "pos_embed": Leaf((f"{at}position_embedding.weight",), POSITIONS),
        **norm("text_model.final_layer_norm", "norm"),
    }
