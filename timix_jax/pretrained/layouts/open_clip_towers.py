"""The towers of open_clip's own transformer, which its CLIP has twice and its SigLIP for texts."""

from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts.base import (
    UNSTATED,
    Shapes,
    Unstated,
    activation_name,
    image_shape,
    position_leaves,
    stated_or_given,
)
from timix_jax.pretrained.leaves import (
    POSITIONS,
    Leaf,
    Leaves,
    attention_in,
    attention_out,
    count_layers,
    linear,
    norm,
    patch_kernel,
    stacked,
)
from timix_jax.pretrained.pixels import Pixels, no_bias
from timix_jax.pretrained.weight_files import WeightFiles

CONFIG_FILE = "open_clip_config.json"
Settings = dict[str, Any]

# Options of open_clip whose other values our towers cannot express.
_IMAGE_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "attentional_pool": (False,),
    "pool_type": ("tok",),
    "input_patchnorm": (False,),
    "pos_embed_type": ("learnable", "sin_cos_2d"),
}
_TEXT_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "embed_cls": (False,),
    "hf_model_name": (None, ""),
    "proj_type": ("linear", "none"),
}
_POOLS = {"argmax": "eot", "eos": "eot", "first": "cls", "last": "last"}


def model_config(files: WeightFiles) -> dict[str, Any] | None:
    """Return open_clip's `model_cfg`; None if no file states it."""
    for name in (CONFIG_FILE, "config.json"):
        content = files.json(name)
        if content is not None and "model_cfg" in content:
            return dict(content["model_cfg"])
        if content is not None and "vision_cfg" in content:
            return content
    return None


def pixels(files: WeightFiles) -> Pixels | Unstated:
    """Return the pixel normalisation of `preprocess_cfg`."""
    content = files.json(CONFIG_FILE) or files.json("config.json") or {}
    stated = content.get("preprocess_cfg", {})
    if "mean" not in stated or "std" not in stated:
        return UNSTATED
    return Pixels(tuple(stated["mean"]), tuple(stated["std"]))


def _check_options(options: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]]) -> None:
    for name, values in known.items():
        if name in options and options[name] not in values:
            raise UserError(
                f"{CONFIG_FILE} states {name}={options[name]!r}, which the towers cannot express (only"
                f" {' or '.join(map(repr, values))})"
            )


def _act(config: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    if config.get("quick_gelu"):
        return "quick_gelu"
    approximate = (options.get("act_kwargs") or {}).get("approximate", "none")
    return activation_name("gelu_tanh" if approximate == "tanh" else "gelu", CONFIG_FILE)


def _variant(config: dict[str, Any] | None, tower: str, options: Mapping[str, Any]) -> Settings:
    if config is None:
        return {f"model.{tower}.act": UNSTATED, f"model.{tower}.eps": UNSTATED}
    eps = (options.get("norm_kwargs") or {}).get("eps", 1e-5)
    return {f"model.{tower}.act": _act(config, options), f"model.{tower}.eps": float(eps)}


def _block(prefix: str, heads: int) -> Leaves:
    at = f"{prefix}resblocks.{{}}."
    return {
        **norm(f"{at}ln_1", "norm1"),
        **norm(f"{at}ln_2", "norm2"),
        **attention_in((f"{at}attn.in_proj_weight",), (f"{at}attn.in_proj_bias",), heads),
        **attention_out(f"{at}attn.out_proj", heads),
        **linear(f"{at}mlp.c_fc", "mlp/up"),
        **linear(f"{at}mlp.c_proj", "mlp/down"),
    }


def image_tower(
    shapes: Shapes, config: dict[str, Any] | None, run: Mapping[str, Any]
) -> tuple[Settings, Leaves]:
    """Return settings and leaves of `visual.…`."""
    options = (config or {}).get("vision_cfg", {})
    _check_options(options, _IMAGE_OPTIONS)
    kernel = shapes["visual.conv1.weight"]
    prefix = "visual.transformer."
    layers = count_layers(shapes, f"{prefix}resblocks.{{}}.ln_1.weight")
    patches = shapes["visual.positional_embedding"][0] - 1
    stated = UNSTATED if config is None else max(kernel[0] // options.get("head_width", 64), 1)
    heads = stated_or_given(stated, run, "model.image.heads")
    ln_pre, projected = "visual.ln_pre.weight" in shapes, "visual.proj" in shapes
    settings = {
        **image_shape(kernel, patches),
        "model.image.depth": layers,
        "model.image.heads": heads,
        "model.image.mlp_dim": shapes[f"{prefix}resblocks.0.mlp.c_fc.weight"][0],
        "model.image.pool": "cls",
        "model.image.ln_pre": ln_pre,
        "model.image.projection": "linear" if projected else "none",
        **_variant(config, "image", options),
    }
    leaves = image_leaves(layers, heads, ln_pre=ln_pre, projected=projected)
    leaves["patch_embed/bias"] = no_bias(leaves["patch_embed/kernel"])
    leaves |= position_leaves(Leaf(("visual.class_embedding",)), "visual.positional_embedding")
    return settings, leaves


def image_leaves(layers: int, heads: int, *, ln_pre: bool, projected: bool = True) -> Leaves:
    """Return the leaves of `visual.…`, except [CLS], positions and the patches' bias, which are not one to one."""
    return {
        "patch_embed/kernel": Leaf(("visual.conv1.weight",), patch_kernel),
        **(norm("visual.ln_pre", "norm_pre") if ln_pre else {}),
        **stacked(_block("visual.transformer.", heads), layers),
        **norm("visual.ln_post", "norm"),
        **({"projection/kernel": Leaf(("visual.proj",))} if projected else {}),
    }


def text_tower(
    shapes: Shapes, config: dict[str, Any] | None, run: Mapping[str, Any]
) -> tuple[Settings, Leaves]:
    """Return settings and leaves of the text tower, whose names start with `text.` in newer files."""
    options = (config or {}).get("text_cfg", {})
    _check_options(options, _TEXT_OPTIONS)
    at = "text." if "text.token_embedding.weight" in shapes else ""
    prefix = f"{at}transformer."
    layers = count_layers(shapes, f"{prefix}resblocks.{{}}.ln_1.weight")
    positions, width = shapes[f"{at}positional_embedding"]
    stated = UNSTATED if config is None else options.get("heads", 8)
    heads = stated_or_given(stated, run, "model.text.heads")
    causal = not options.get("no_causal_mask", False)
    pool = options.get("pool_type", "argmax")
    if pool not in _POOLS:
        raise UserError(f"{CONFIG_FILE} states pool_type={pool!r}, which the towers cannot express")
    projection = _projection(shapes, f"{at}text_projection")
    settings = {
        "model.text.max_tokens": positions,
        "model.text.width": width,
        "model.text.depth": layers,
        "model.text.heads": heads,
        "model.text.mlp_dim": shapes[f"{prefix}resblocks.0.mlp.c_fc.weight"][0],
        "model.text.pre_norm": True,
        "model.text.causal": causal,
        "model.text.pool": _POOLS[pool],
        **({} if causal else {"model.text.pad_mask": False}),
        "model.text.projection": {0: "none", 1: "linear", 2: "biased"}[len(projection)],
        **_variant(config, "text", options),
    }
    return settings, text_leaves(at, layers, heads) | projection


def text_leaves(at: str, layers: int, heads: int) -> Leaves:
    """Return the leaves of the text tower below `at`, except the projection."""
    return {
        "word_embed/embedding": Leaf((f"{at}token_embedding.weight",)),
        "pos_embed": Leaf((f"{at}positional_embedding",), POSITIONS),
        **stacked(_block(f"{at}transformer.", heads), layers),
        **norm(f"{at}ln_final", "norm"),
    }


def _projection(shapes: Shapes, name: str) -> Leaves:
    if name in shapes:
        return projection_leaves(name, biased=False)
    if f"{name}.weight" not in shapes:
        return {}
    leaves = projection_leaves(name, biased=True)
    return {path: leaf for path, leaf in leaves.items() if leaf.names[0] in shapes}


def projection_leaves(name: str, *, biased: bool) -> Leaves:
    """Return the text's projection: a matrix (in, out), or a linear layer."""
    return linear(name, "projection") if biased else {"projection/kernel": Leaf((name,))}
