"""Exported folders as the towers of `numpy_towers`, read by the names that their own projects give arrays."""

import json

import numpy as np
from numpy_towers import Tower
from safetensors.numpy import load_file

_ACTS = {"gelu_pytorch_tanh": "gelu_tanh"}


class Arrays(dict):
    """The arrays of a file, which must all be used."""

    def __init__(self, file):
        super().__init__(load_file(file))
        self.used = set()

    def __getitem__(self, name):
        self.used.add(name)
        return super().__getitem__(name).astype(np.float64)

    def linear(self, name):
        """Return matrix (in, out) and bias; 0 without one."""
        weight = self[f"{name}.weight"].T
        return weight, self[f"{name}.bias"] if f"{name}.bias" in self else np.zeros(weight.shape[1])

    def norm(self, name):
        return self[f"{name}.weight"], self[f"{name}.bias"]

    def joined(self, weight, bias):
        """Return the query, key and value layers of one matrix."""
        pairs = zip(np.split(self[weight].T, 3, axis=1), np.split(self[bias], 3), strict=True)
        return dict(zip("qkv", pairs, strict=True))

    def assert_all_used(self):
        assert set(self) == self.used


def _blocks(arrays, count, names, at, joined=()):
    blocks = []
    for i in range(count):
        block = {}
        for ours, theirs in names.items():
            read = arrays.norm if ours.startswith("norm") else arrays.linear
            block[ours] = read(f"{at}.{i}.{theirs}")
        if joined:
            block |= arrays.joined(*(f"{at}.{i}.{name}" for name in joined))
        blocks.append(block)
    return blocks


_OPEN_CLIP = {
    **{"norm1": "ln_1", "norm2": "ln_2", "o": "attn.out_proj"},
    **{"up": "mlp.c_fc", "down": "mlp.c_proj"},
}
_HF = {
    **{"norm1": "layer_norm1", "norm2": "layer_norm2", "up": "mlp.fc1", "down": "mlp.fc2"},
    **{n: f"self_attn.{t}_proj" for n, t in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))},
}
_BERT = {
    **{n: f"attention.self.{t}" for n, t in (("q", "query"), ("k", "key"), ("v", "value"))},
    **{"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
    **{"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"},
}


def _image_layers(arrays, kernel, table, token=None, bias=None, **rest):
    rows = arrays[table]
    first = 0 if token is None else 1
    patch = arrays[kernel].transpose(2, 3, 1, 0)
    return {
        "patch": patch,
        "patch_bias": np.zeros(patch.shape[3]) if bias is None else arrays[bias],
        "cls": None if token is None else arrays[token],
        "cls_position": rows[0] if first else None,
        "positions": rows[first:],
        **rest,
    }


def read_open_clip(folder):
    """Return (image tower, text tower, configuration, arrays)."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    model = config["model_cfg"]
    vision, words = model["vision_cfg"], model["text_cfg"]
    arrays = Arrays(folder / "open_clip_model.safetensors")
    act = lambda cfg: (
        "quick_gelu"
        if model.get("quick_gelu")
        else "gelu_tanh"
        if cfg.get("act_kwargs", {}).get("approximate") == "tanh"
        else "gelu"
    )
    joined = ("attn.in_proj_weight", "attn.in_proj_bias")
    image = Tower(
        _image_layers(
            arrays,
            "visual.conv1.weight",
            "visual.positional_embedding",
            "visual.class_embedding",
            pre=None if vision["no_ln_pre"] else arrays.norm("visual.ln_pre"),
            norm=arrays.norm("visual.ln_post"),
            projection=arrays["visual.proj"],
        ),
        _blocks(arrays, vision["layers"], _OPEN_CLIP, "visual.transformer.resblocks", joined),
        vision["width"] // vision["head_width"],
        act(vision),
        vision["norm_kwargs"]["eps"],
    )
    if "hf_model_name" in words:
        text = _bert(folder, arrays, words)
    else:
        at = "text." if model.get("custom_text") else ""
        biased = words["proj_bias"]
        matrix = None if biased else arrays[f"{at}text_projection"]
        text = Tower(
            {
                "words": arrays[f"{at}token_embedding.weight"],
                "positions": arrays[f"{at}positional_embedding"],
                "norm": arrays.norm(f"{at}ln_final"),
                "projection": arrays.linear(f"{at}text_projection") if biased else (matrix, 0),
            },
            _blocks(arrays, words["layers"], _OPEN_CLIP, f"{at}transformer.resblocks", joined),
            words["heads"],
            act(words),
            words["norm_kwargs"]["eps"],
            causal=not words["no_causal_mask"],
            pad_mask=False,
            pool={"argmax": "eot", "eos": "eot", "last": "last"}[words["pool_type"]],
        )
    return image, text, config, arrays


def _bert(folder, arrays, words):
    config, at = json.loads((folder / "config.json").read_text()), "text.transformer."
    return Tower(
        {
            "words": arrays[f"{at}embeddings.word_embeddings.weight"],
            "positions": arrays[f"{at}embeddings.position_embeddings.weight"],
            "types": arrays[f"{at}embeddings.token_type_embeddings.weight"],
            "norm": arrays.norm(f"{at}embeddings.LayerNorm"),
            "projection": arrays.linear("text.proj"),
        },
        _blocks(arrays, config["num_hidden_layers"], _BERT, f"{at}encoder.layer"),
        config["num_attention_heads"],
        _ACTS.get(config["hidden_act"], config["hidden_act"]),
        config["layer_norm_eps"],
        pre_norm=False,
        pool={"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls"}[
            words["hf_pooler_type"]
        ],
    )


def read_huggingface(folder):
    """Return (image tower, text tower, configuration, arrays) of a CLIPModel or SiglipModel."""
    config = json.loads((folder / "config.json").read_text())
    vision, words = config["vision_config"], config["text_config"]
    arrays = Arrays(folder / "model.safetensors")
    siglip = config["model_type"] == "siglip"
    at, head = "vision_model.embeddings.", "vision_model.head."
    rest = {
        "pre": None if siglip else arrays.norm("vision_model.pre_layrnorm"),
        "norm": arrays.norm("vision_model.post_layernorm"),
        "projection": None if siglip else arrays["visual_projection.weight"].T,
    }
    if siglip:
        rest["head"] = {
            **arrays.joined(f"{head}attention.in_proj_weight", f"{head}attention.in_proj_bias"),
            "o": arrays.linear(f"{head}attention.out_proj"),
            "norm": arrays.norm(f"{head}layernorm"),
            "up": arrays.linear(f"{head}mlp.fc1"),
            "down": arrays.linear(f"{head}mlp.fc2"),
            "probe": arrays[f"{head}probe"][0, 0],
        }
    tower = lambda layers, blocks, cfg, **how: Tower(
        layers,
        blocks,
        cfg["num_attention_heads"],
        _ACTS.get(cfg["hidden_act"], cfg["hidden_act"]),
        cfg["layer_norm_eps"],
        **how,
    )
    image = tower(
        _image_layers(
            arrays,
            f"{at}patch_embedding.weight",
            f"{at}position_embedding.weight",
            None if siglip else f"{at}class_embedding",
            f"{at}patch_embedding.bias" if siglip else None,
            **rest,
        ),
        _blocks(arrays, vision["num_hidden_layers"], _HF, "vision_model.encoder.layers"),
        vision,
        pool="map" if siglip else "cls",
    )
    text = tower(
        {
            "words": arrays["text_model.embeddings.token_embedding.weight"],
            "positions": arrays["text_model.embeddings.position_embedding.weight"],
            "norm": arrays.norm("text_model.final_layer_norm"),
            "projection": arrays.linear("text_model.head" if siglip else "text_projection"),
        },
        _blocks(arrays, words["num_hidden_layers"], _HF, "text_model.encoder.layers"),
        words,
        causal=not siglip,
        pad_mask=False,
        pool="last" if siglip else "eot",
    )
    return image, text, config, arrays
