"""open_clip's folder, as its `local-dir:` schema reads it: CLIP with its own text tower, or with a BERT."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.export.folder import Exported
from timix_jax.export.parts import (
    HALF,
    cls_and_positions,
    folded_bias,
    huggingface_act,
    tokenizer_files,
)
from timix_jax.export.refusals import Rule, check_rules
from timix_jax.export.trained import Array, Trained
from timix_jax.pretrained.layouts import bert, open_clip_bert, open_clip_towers
from timix_jax.pretrained.leaves import split_leaves

TITLE = "open_clip"
WEIGHTS_FILE = "open_clip_model.safetensors"

_IMAGE_RULES = (
    Rule("image.stem", ("linear",), "its patches are one convolution"),
    Rule(
        "image.pool",
        ("cls",),
        "its average of the patches keeps a [CLS] token in the blocks, and its attention pooling is timm's",
    ),
    Rule("image.projection", ("linear",), "its images have a projection without bias"),
)
_BERT_RULES = (
    Rule(
        "text.causal", (False,), "in BERT's order of norms, its text tower is Hugging Face's BERT"
    ),
    Rule("text.pad_mask", (True,), "its BERT masks padding"),
    Rule("text.pool", ("cls", "mean"), "its BERT is pooled by [CLS] or the mean"),
    Rule("text.projection", ("linear", "none"), "it projects BERT without a bias"),
)
_OWN_POOLS = {"eot": "eos", "last": "last", "cls": "first"}
_CLEANINGS = {"": "whitespace", "clip": "lower", "canonical": "canonicalize"}


def export(trained: Trained, target: Path) -> Exported:
    """Return arrays and configuration.

    Args:
      trained: the model.
      target: the folder's last place, which open_clip's configuration of a BERT must name.

    Raises:
      UserError: names what open_clip cannot express.
    """
    check_rules(trained, TITLE, [*_IMAGE_RULES, *_text_rules(trained)])
    image, text = trained.tower("image"), trained.tower("text")
    leaves = open_clip_towers.image_leaves(
        trained.depth("image"), trained.heads("image"), ln_pre=trained.field("image.ln_pre")
    )
    arrays = {
        **split_leaves(leaves, image),
        **cls_and_positions(image, "visual.class_embedding", "visual.positional_embedding"),
        "logit_scale": trained.logit_scale,
    }
    if "logit_bias" in trained.params:
        arrays["logit_bias"] = trained.params["logit_bias"]
    with_bert = not trained.field("text.pre_norm")
    arrays |= _bert_arrays(trained, text) if with_bert else _own_arrays(trained, text)
    configs: dict[str, Any] = {"open_clip_config.json": _config(trained, target)}
    if with_bert:
        configs["config.json"] = _bert_config(trained)
    return Exported(WEIGHTS_FILE, arrays, configs | tokenizer_files(trained), folded_bias(trained))


def _text_rules(trained: Trained) -> tuple[Rule, ...]:
    if not trained.field("text.pre_norm"):
        return _BERT_RULES
    rules = [Rule("text.pool", tuple(_OWN_POOLS), "its text tower takes one position")]
    if not trained.field("text.causal"):
        masks = "its text tower without a causal mask attends to padding"
        rules.append(Rule("text.pad_mask", (False,), masks))
    quick = [trained.field(f"{tower}.act") == "quick_gelu" for tower in ("image", "text")]
    if quick[0] != quick[1]:
        act = trained.field("image.act")
        rules.append(Rule("text.act", (act,), "QuickGELU is set for both towers"))
    return tuple(rules)


def _custom_text(trained: Trained) -> bool:
    """Return True if names of the text tower start with `text.`: plain CLIP's don't."""
    return trained.field("text.projection") != "linear" or not trained.field("text.causal")


def _own_arrays(trained: Trained, text: dict[str, Array]) -> dict[str, Array]:
    at = "text." if _custom_text(trained) else ""
    leaves = open_clip_towers.text_leaves(at, trained.depth("text"), trained.heads("text"))
    kind = trained.field("text.projection")
    if kind != "none":
        leaves |= open_clip_towers.projection_leaves(
            f"{at}text_projection", biased=kind == "biased"
        )
    return split_leaves(leaves, text)


def _bert_arrays(trained: Trained, text: dict[str, Array]) -> dict[str, Array]:
    at = open_clip_bert.AT
    leaves = bert.leaves_of(at, trained.depth("text"), trained.heads("text"))
    types = np.zeros((1, text["pos_embed"].shape[2]), np.float32)
    arrays = split_leaves(leaves, text) | {f"{at}embeddings.token_type_embeddings.weight": types}
    if trained.field("text.projection") == "linear":
        arrays[open_clip_bert.PROJECTION] = text["projection/kernel"].T
    return arrays


def _config(trained: Trained, target: Path) -> dict[str, Any]:
    size = trained.field("image.size")
    vision = {
        **{"image_size": size, "patch_size": trained.field("image.patch")},
        **_sizes(trained, "image"),
        "head_width": trained.field("image.width") // trained.heads("image"),
        "no_ln_pre": not trained.field("image.ln_pre"),
        **_variant(trained, "image"),
    }
    model = {
        "embed_dim": trained.field("embed_dim"),
        "vision_cfg": vision,
        "text_cfg": _text_config(trained, target),
    }
    if trained.field("image.act") == "quick_gelu":
        model["quick_gelu"] = True
    if trained.field("text.pre_norm") and _custom_text(trained):
        model["custom_text"] = True
    if "logit_bias" in trained.params:
        model["init_logit_bias"] = float(trained.params["logit_bias"])
    preprocess = {"size": size, "mode": "RGB", "mean": HALF, "std": HALF}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _text_config(trained: Trained, target: Path) -> dict[str, Any]:
    tokenizer: Tokenizer = trained.tokenizer
    shared = {
        "context_length": trained.field("text.max_tokens"),
        "vocab_size": len(trained.params["text/word_embed/embedding"]),
        "hf_tokenizer_name": "tokenizer",  # any name: open_clip then reads that of the folder
        "tokenizer_kwargs": {"clean": _CLEANINGS[tokenizer.own["clean"]]},
    }
    pool = trained.field("text.pool")
    if not trained.field("text.pre_norm"):
        poolers = {ours: theirs for theirs, ours in open_clip_bert.POOLERS.items()}
        projection = "linear" if trained.field("text.projection") == "linear" else None
        return shared | {
            "hf_model_name": str(target.absolute()),
            "hf_pooler_type": poolers[pool],
            "hf_proj_type": projection,
        }
    kind = trained.field("text.projection")
    return {
        **shared,
        **_sizes(trained, "text"),
        "heads": trained.heads("text"),
        "no_causal_mask": not trained.field("text.causal"),
        **{"pool_type": _pool(trained), "eos_id": tokenizer.sep_id, "pad_id": tokenizer.pad_id},
        **{"proj_type": "none" if kind == "none" else "linear", "proj_bias": kind == "biased"},
        **_variant(trained, "text"),
    }


def _pool(trained: Trained) -> str:
    pool: str = trained.field("text.pool")
    rows = len(trained.params["text/word_embed/embedding"])
    if pool == "eot" and trained.tokenizer.sep_id == rows - 1:
        return "argmax"  # what older versions know: the end has the highest id
    return _OWN_POOLS[pool]


def _sizes(trained: Trained, tower: str) -> dict[str, Any]:
    width, hidden = trained.field(f"{tower}.width"), trained.field(f"{tower}.mlp_dim")
    ratio = hidden / width
    if int(width * ratio) < hidden:  # open_clip rounds down
        ratio = math.nextafter(ratio, math.inf)
    return {"width": width, "layers": trained.depth(tower), "mlp_ratio": ratio}


def _variant(trained: Trained, tower: str) -> dict[str, Any]:
    tanh = trained.field(f"{tower}.act") == "gelu_tanh"
    return {
        "norm_kwargs": {"eps": trained.field(f"{tower}.eps")},
        **({"act_kwargs": {"approximate": "tanh"}} if tanh else {}),
    }


def _bert_config(trained: Trained) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(trained.params["text/word_embed/embedding"]),
        "hidden_size": trained.field("text.width"),
        "num_hidden_layers": trained.depth("text"),
        "num_attention_heads": trained.heads("text"),
        "intermediate_size": trained.field("text.mlp_dim"),
        "max_position_embeddings": trained.field("text.max_tokens"),
        "hidden_act": huggingface_act(trained.field("text.act")),
        "layer_norm_eps": trained.field("text.eps"),
        "type_vocab_size": 1,
        "position_embedding_type": "absolute",
        "pad_token_id": trained.tokenizer.pad_id,
    }
