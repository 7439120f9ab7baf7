"""Hugging Face's folders: CLIPModel and SiglipModel."""

from pathlib import Path
from typing import Any

import numpy as np

from timix_jax.errors import UserError
from timix_jax.export.folder import Exported
from timix_jax.export.parts import (
    cls_and_positions,
    folded_bias,
    huggingface_act,
    processor_config,
    tokenizer_files,
)
from timix_jax.export.refusals import Rule, check_rules
from timix_jax.export.trained import Array, Trained
from timix_jax.pretrained.layouts import huggingface_clip, huggingface_siglip
from timix_jax.pretrained.leaves import split_head_biases, split_heads, split_leaves

WEIGHTS_FILE = "model.safetensors"
_LEGACY_END = (
    2  # CLIPModel takes this id for that of old configurations, and pools at the highest id
)

_CLIP = "Hugging Face's CLIPModel"
_SIGLIP = "Hugging Face's SiglipModel"
_BOTH_RULES = (
    Rule("image.stem", ("linear",), "its patches are one convolution"),
    Rule(
        "image.pool", ("cls", "map"), "CLIPModel takes [CLS], SiglipModel an attention pooling head"
    ),
    Rule("text.pre_norm", (True,), "its norms come before each sublayer"),
)
_CLIP_RULES = (
    *_BOTH_RULES,
    Rule("image.ln_pre", (True,), "it has a norm before the blocks"),
    Rule("image.projection", ("linear",), "it projects without a bias"),
    Rule("text.causal", (True,), "its text tower is causal"),
    Rule("text.pool", ("eot",), "it takes the end of the text"),
    Rule("text.projection", ("linear",), "it projects without a bias"),
)
_SIGLIP_RULES = (
    *_BOTH_RULES,
    Rule("image.ln_pre", (False,), "it has no norm before the blocks"),
    Rule("image.projection", ("none",), "its images have no projection"),
    Rule("text.causal", (False,), "its text tower sees the whole text"),
    Rule("text.pad_mask", (False,), "it attends to padding"),
    Rule("text.pool", ("last",), "it takes the last position"),
    Rule("text.projection", ("biased",), "it projects texts with a bias"),
)


def export(trained: Trained, target: Path) -> Exported:
    """Return arrays and configuration.

    Raises:
      UserError: names what neither model can express.
    """
    del target
    if trained.field("image.pool") == "map":
        check_rules(trained, _SIGLIP, _SIGLIP_RULES)
        return _siglip(trained)
    check_rules(trained, _CLIP, _CLIP_RULES)
    if "logit_bias" in trained.params:
        raise UserError(
            f"{_CLIP} cannot express a bias of the logits, which the sigmoid loss trains: use --format=open_clip"
        )
    if trained.tokenizer.sep_id == _LEGACY_END:
        raise UserError(
            f"{_CLIP} cannot express a tokenizer whose end token has the id {_LEGACY_END}, which it takes for an old"
            " configuration: use --format=open_clip"
        )
    return _clip(trained)


def _clip(trained: Trained) -> Exported:
    image, text = trained.tower("image"), trained.tower("text")
    at = huggingface_clip.IMAGE
    arrays = {
        **split_leaves(
            huggingface_clip.image_leaves(trained.depth("image"), trained.heads("image")), image
        ),
        **cls_and_positions(image, f"{at}class_embedding", f"{at}position_embedding.weight"),
        **split_leaves(
            huggingface_clip.text_leaves(trained.depth("text"), trained.heads("text")), text
        ),
        "logit_scale": trained.logit_scale,
    }
    config: dict[str, Any] = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": trained.field("embed_dim"),
        "logit_scale_init_value": float(trained.logit_scale),
        "vision_config": _side(trained, "image", "clip_vision_model"),
        "text_config": _side(trained, "text", "clip_text_model"),
    }
    for side in ("vision_config", "text_config"):
        config[side]["projection_dim"] = trained.field("embed_dim")
    files = {"config.json": config} | tokenizer_files(trained)
    files["preprocessor_config.json"] = processor_config(trained, "CLIPImageProcessor")
    return Exported(WEIGHTS_FILE, arrays, files, folded_bias(trained))


def _siglip(trained: Trained) -> Exported:
    image, text = trained.tower("image"), trained.tower("text")
    arrays = {
        **split_leaves(
            huggingface_siglip.image_leaves(trained.depth("image"), trained.heads("image")), image
        ),
        **_pooling_attention(image, trained.heads("image")),
        **split_leaves(
            huggingface_siglip.text_leaves(trained.depth("text"), trained.heads("text")), text
        ),
        "logit_scale": trained.logit_scale.reshape(1),
    }
    if "logit_bias" in trained.params:
        arrays["logit_bias"] = trained.params["logit_bias"].reshape(1)
    config: dict[str, Any] = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": _side(trained, "image", "siglip_vision_model"),
        "text_config": _side(trained, "text", "siglip_text_model"),
    }
    config["text_config"]["projection_size"] = trained.field("embed_dim")
    files = {"config.json": config} | tokenizer_files(trained)
    files["preprocessor_config.json"] = processor_config(trained, "SiglipImageProcessor")
    return Exported(WEIGHTS_FILE, arrays, files, {})


def _pooling_attention(image: dict[str, Array], heads: int) -> dict[str, Array]:
    """Return queries, keys and values of the pooling head as one matrix."""
    at = "attention_pool/"
    query, kv = image[f"{at}query/kernel"], image[f"{at}kv/kernel"]
    kernel = np.concatenate([query[:, None], kv], axis=1)
    bias = np.concatenate([image[f"{at}query/bias"][None], image[f"{at}kv/bias"]])
    return {
        huggingface_siglip.HEAD_WEIGHT: split_heads(heads).backward(kernel, 1)[0],
        huggingface_siglip.HEAD_BIAS: split_head_biases(heads).backward(bias, 1)[0],
    }


def _side(trained: Trained, tower: str, kind: str) -> dict[str, Any]:
    shared = {
        "model_type": kind,
        "hidden_size": trained.field(f"{tower}.width"),
        "intermediate_size": trained.field(f"{tower}.mlp_dim"),
        "num_hidden_layers": trained.depth(tower),
        "num_attention_heads": trained.heads(tower),
        "hidden_act": huggingface_act(trained.field(f"{tower}.act")),
        "layer_norm_eps": trained.field(f"{tower}.eps"),
    }
    if tower == "image":
        sizes = {
            "image_size": trained.field("image.size"),
            "patch_size": trained.field("image.patch"),
        }
        return shared | sizes | {"num_channels": 3}
    tokenizer = trained.tokenizer
    return shared | {
        "vocab_size": len(trained.params["text/word_embed/embedding"]),
        "max_position_embeddings": trained.field("text.max_tokens"),
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
