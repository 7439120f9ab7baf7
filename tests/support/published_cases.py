"""One small model per published layout, with what its authors' code would compute."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax_layouts
import jax
import jax.numpy as jnp
import numpy as np
import public_layouts as layouts
from numpy_towers import CLIP, HALF, encode_images, encode_texts, image_tower, text_tower, unit

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.variants import ImageVariant, TextVariant
from timix_jax.models.vit import VitShape

VOCABULARY, TOKENS, START, END = 40, 7, 38, 39
SCALE, BIAS = 2.5, -7.5
ODD = ((0.3, 0.5, 0.6), (0.2, 0.3, 0.25))  # no usual normalisation
LARGE_EPS = 1e-2  # of the larger models, so that another epsilon would be seen


@dataclasses.dataclass
class Case:
    """A model and its files; towers that it lacks are None."""

    write: Callable[..., Any]  # a folder → its path
    image: Any = None
    text: Any = None
    pixels: Any = HALF
    pad: int = 0
    both: bool = True


def captions(pad, length=TOKENS):
    """Start, words, end, padding; lengths differ, and one caption fills the row."""
    tokens = np.random.default_rng(5).integers(2, START, (3, length)).astype(np.int32)
    tokens[:, 0] = START
    for row, words in zip(tokens, (length - 1, 2, 4), strict=True):
        row[words:] = pad
        row[words] = END
    return tokens


def pictures(size):
    return np.random.default_rng(6).integers(0, 256, (3, size, size, 3)).astype(np.uint8)


def no_bias(text, image=None):
    text.layers["projection"][1][:] = 0
    if image is not None:
        image.layers["patch_bias"][:] = 0


def clip_towers(small, act):
    sizes = (
        {"width": 24, "heads": 2, "depth": 2} if small else {"width": 32, "heads": 4, "depth": 3}
    )
    how = {"act": act, "eps": 1e-5 if small else LARGE_EPS, "hidden": 40}
    image = image_tower(
        *(1,), grid=3 if small else 2, patch=4, space=12, pre=True, pool="cls", **how, **sizes
    )
    text = text_tower(
        *(2,),
        tokens=TOKENS,
        vocabulary=VOCABULARY,
        space=12,
        causal=True,
        pool="eot",
        **how,
        **sizes,
    )
    no_bias(text, image)
    return image, text


def siglip_towers(small, act="gelu_tanh", text_act=None, heads=None):
    sizes = (
        {"width": 24, "heads": 3, "depth": 2} if small else {"width": 32, "heads": 2, "depth": 3}
    )
    how = {"eps": 1e-6, "hidden": 40}
    image_sizes = sizes | ({"heads": heads, "width": 2 * heads} if heads else {})
    space = image_sizes["width"]
    image = image_tower(
        *(3,),
        grid=2 if small else 3,
        patch=4,
        space=None,
        cls=False,
        pool="map",
        act=act,
        **how,
        **image_sizes,
    )
    text = text_tower(
        *(4,), tokens=TOKENS, vocabulary=VOCABULARY, space=space, pad_mask=False, pool="last",
        act=text_act or act, **how, **sizes
    )  # fmt: skip
    return image, text


def open_clip_case(small, act):
    image, text = clip_towers(small, act)
    arrays = layouts.open_clip(image, text, SCALE, at="" if small else "text.")
    quick = {"quick_gelu": True} if act == "quick_gelu" else {}
    norms = {} if small else {"norm_kwargs": {"eps": LARGE_EPS}}
    configs = layouts.open_clip_config(image, text, CLIP, **quick, vision_cfg=norms, text_cfg=norms)
    name = "open_clip_model.safetensors"
    return Case(lambda f: layouts.write(f, arrays, configs, name), image, text, CLIP)


def open_clip_siglip_case(small):
    """SigLIP 1 has the exact GELU in both towers, as a patch16 base; SigLIP 2's giant the tanh form."""
    act, name, heads = (
        ("gelu", "vit_base_patch16_siglip_224", 12)
        if small
        else ("gelu_tanh", "vit_giantopt_patch16_siglip_256", 16)
    )
    image, text = siglip_towers(small, act, heads=heads)
    options = {
        **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        **{"norm_kwargs": {"eps": 1e-6}},
        **({} if small else {"act_kwargs": {"approximate": "tanh"}}),
    }
    vision = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
    configs = layouts.open_clip_config(image, text, HALF, vision_cfg=vision, text_cfg=options)
    arrays = layouts.open_clip_siglip(image, text, SCALE, BIAS)
    return Case(lambda f: layouts.write(f, arrays, configs), image, text, pad=1)


def huggingface_clip_case(small, act):
    image, text = clip_towers(small, act)
    arrays = layouts.huggingface_clip(image, text, SCALE)
    configs = layouts.huggingface_config(image, text, ODD)
    return Case(lambda f: layouts.write(f, arrays, configs), image, text, ODD)


def huggingface_siglip_case(small):
    image, text = siglip_towers(small)
    arrays = layouts.huggingface_siglip(image, text, SCALE, BIAS)
    configs = layouts.huggingface_config(image, text, HALF)
    return Case(lambda f: layouts.write(f, arrays, configs), image, text, pad=1)


def bert_case(small):
    how = {"act": "gelu", "pool": "mean", "hidden": 40, "bert": True}
    how["eps"] = 1e-12 if small else LARGE_EPS
    sizes = (
        {"width": 24, "heads": 3, "depth": 2} if small else {"width": 32, "heads": 2, "depth": 3}
    )
    text = text_tower(7, tokens=TOKENS + 4, vocabulary=VOCABULARY, space=None, **how, **sizes)
    names = ("bert.", "gamma", "beta") if small else ("",)
    arrays = layouts.bert(text, *names)
    config = {"model_type": "bert", "num_attention_heads": text.heads, "layer_norm_eps": text.eps}
    configs = {"config.json": config, "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}
    return Case(lambda f: layouts.write(f, arrays, configs), text=text, both=False)


def vit_case(small):
    how = {"act": "gelu", "pool": "cls", "hidden": 40, "space": None, "patch": 4}
    how["eps"] = 1e-12 if small else LARGE_EPS
    sizes = (
        {"width": 24, "heads": 3, "depth": 2} if small else {"width": 32, "heads": 2, "depth": 3}
    )
    image = image_tower(8, grid=3 if small else 2, **how, **sizes)
    arrays = layouts.huggingface_vit(image, "vit." if small else "", modules=not small)
    configs = layouts.huggingface_config(image, image, ODD)
    configs["config.json"] = configs["config.json"]["vision_config"]
    return Case(lambda f: layouts.write(f, arrays, configs), image, pixels=ODD, both=False)


def big_vision_case(small):
    image, text = siglip_towers(small)
    at = "params/" if small else ""
    arrays = flax_layouts.big_vision_siglip(image, text, SCALE, BIAS, at=at, scanned=not small)
    return Case(lambda f: layouts.write(f, arrays, {}, "siglip.npz"), image, text, pad=1)


def vision_transformer_case(small):
    how = {"act": "gelu_tanh", "eps": 1e-6, "pool": "cls", "hidden": 40, "space": None, "patch": 4}
    sizes = (
        {"width": 24, "heads": 3, "depth": 2} if small else {"width": 32, "heads": 2, "depth": 3}
    )
    image = image_tower(9, grid=3 if small else 2, **how, **sizes)
    at = "opt/target/" if small else ""
    arrays = flax_layouts.vision_transformer(image, at=at, original=small)
    return Case(lambda f: layouts.write(f, arrays, {}, "vit.npz"), image, both=False)


CASES = {
    "open_clip": lambda small: open_clip_case(small, "quick_gelu" if small else "gelu"),
    "open_clip_siglip": open_clip_siglip_case,
    "huggingface_clip": lambda small: huggingface_clip_case(
        small, "quick_gelu" if small else "gelu"
    ),
    "huggingface_siglip": huggingface_siglip_case,
    "bert": bert_case,
    "huggingface_vit": vit_case,
    "big_vision": big_vision_case,
    "vision_transformer": vision_transformer_case,
}


def model_of(settings, *, pad=0, vocab_size=VOCABULARY, **changes) -> DualEncoder:
    """Return the dual encoder of these settings (`PublicWeights.settings`), and small values for the rest."""
    tower = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
    sizes = {"image.size": 8, "image.patch": 4, "text.max_tokens": TOKENS, "embed_dim": 12}
    rest = sizes | {f"{t}.{name}": v for t in ("image", "text") for name, v in tower.items()}
    fields = (
        rest | {name.removeprefix("model."): value for name, value in settings.items()} | changes
    )
    group = lambda t: {
        n.removeprefix(f"{t}."): v for n, v in fields.items() if n.startswith(f"{t}.")
    }
    image, text = group("image"), group("text")
    shape = lambda values, names: [values[name] for name in names.split()]
    variant = lambda kind, values: kind(**{n: v for n, v in values.items() if n in kind._fields})
    pool = image.get("pool", "cls")
    return DualEncoder(
        VitShape(*shape(image, "size patch width depth heads mlp_dim")),
        TextShape(vocab_size, *shape(text, "max_tokens width depth heads mlp_dim")),
        embed_dim=fields["embed_dim"],
        tpp_layer=0,
        pool=pool,
        text_pre_norm=text.get("pre_norm", False),
        pad_id=pad,
        eot_id=END,
        logit_bias_init=0.0,
        image_variant=variant(ImageVariant, image),
        text_variant=variant(TextVariant, text),
    )


def empty_params(model, value=0.5) -> Any:
    """Return parameters that are all the same number, for which nothing is compiled."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda s: jnp.asarray(np.full(s.shape, value, s.dtype)), shapes)


def expected(case, size) -> dict[str, np.ndarray]:
    """Return what the published architecture computes: unit embeddings of whole models, tokens of single towers."""
    found = {}
    if case.image is not None:
        embedding, tokens = encode_images(case.image, pictures(size), case.pixels)
        found["image"] = unit(embedding) if case.both else tokens
    if case.text is not None:
        embedding, hidden = encode_texts(case.text, captions(case.pad), pad=case.pad, end=END)
        found["text"] = unit(embedding) if case.both else embedding
        if not case.both:
            found["hidden"] = hidden
    return found


def computed(case, model, params) -> dict[str, np.ndarray]:
    """Return the same of our model."""

    @jax.jit
    def run(params):
        found = {}
        if case.image is not None:
            images = jnp.asarray(pictures(model.image.image_size))
            features = model.encode_image(params, model.embed_patches(params, images))
            found["image"] = features.embedding if case.both else features.tokens
        if case.text is not None:
            features = model.encode_text(params, jnp.asarray(captions(case.pad)))
            found["text"] = features.embedding if case.both else features.cls
            if not case.both:
                found["hidden"] = features.tokens
        return found

    return jax.tree.map(np.asarray, run(params))
