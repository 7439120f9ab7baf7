"""What formats for PyTorch share: arrays that are not one to one, and the files of the tokenizer."""

from typing import Any

import numpy as np

from timix_jax.data.tokenizers.tokenizer import OWN
from timix_jax.export.trained import Array, Trained
from timix_jax.inference.tokenizer_files import CONFIG_FILE
from timix_jax.pretrained.own_arrays import BIAS, POSITIONS

HALF = [0.5, 0.5, 0.5]


def cls_and_positions(image: dict[str, Array], token: str, table: str) -> dict[str, Array]:
    """Return [CLS] and a table (N+1, C) for a patch convolution without a bias, which goes to the positions.

    Ours has no position for [CLS]: row 0 is zero.
    """
    positions = image["pos_embed"][0] + image["patch_embed/bias"]
    rows = np.concatenate([np.zeros_like(positions[:1]), positions])
    return {token: image["cls"].reshape(-1), table: rows}


def folded_bias(trained: Trained) -> dict[str, Array]:
    """Return what `cls_and_positions` joins, to be kept next to the weights."""
    return {name: trained.params[name] for name in (BIAS, POSITIONS)}


def end_token(trained: Trained) -> str:
    """Return the token that ends a text."""
    return trained.tokenizer.token(trained.tokenizer.sep_id)


def tokenizer_config(trained: Trained) -> dict[str, Any]:
    """Return tokenizer_config.json, by which `AutoTokenizer` makes the token ids of this model.

    A padding that is a word as well, as CLIP's 0, would be cut out of texts; after the end of a causal text any id
    will do.
    """
    tokenizer = trained.tokenizer
    pad = tokenizer.token(tokenizer.pad_id)
    if trained.field("text.causal") and tokenizer.own["pad_id"] is not None:
        pad = end_token(trained)
    roles = {"pad_token": pad, "sep_token": end_token(trained), "eos_token": end_token(trained)}
    if tokenizer.cls_id is not None:
        start = tokenizer.token(tokenizer.cls_id)
        roles |= {"cls_token": start, "bos_token": start}
    if tokenizer.mask_id is not None:
        roles["mask_token"] = tokenizer.token(tokenizer.mask_id)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": trained.field("text.max_tokens"),
        "clean_up_tokenization_spaces": False,
        **roles,
        OWN: tokenizer.own,
    }


def tokenizer_files(trained: Trained) -> dict[str, Any]:
    """Return file → content of the tokenizer."""
    return {
        "tokenizer.json": trained.tokenizer.to_tokenizer_json(),
        CONFIG_FILE: tokenizer_config(trained),
    }


def huggingface_act(name: str) -> str:
    """Return Hugging Face's name of an activation."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)


def processor_config(trained: Trained, kind: str) -> dict[str, Any]:
    """Return preprocessor_config.json: the whole image is squeezed to a square of pixels from -1 to 1."""
    size = trained.field("image.size")
    return {
        "image_processor_type": kind,
        **{"do_resize": True, "size": {"height": size, "width": size}, "resample": 3},
        **{"do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255},
        **{"do_normalize": True, "image_mean": HALF, "image_std": HALF, "do_convert_rgb": True},
    }
