"""Towers written in the names and shapes of published weights, with their configuration files."""

import json

import numpy as np
from numpy_towers import CLIP
from safetensors.numpy import save_file


def write(folder, arrays, configs, name="model.safetensors"):
    """Write a folder of weights; float32, and big arrays in C order."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}
    if name.endswith(".npz"):
        np.savez(folder / name, **arrays)
    else:
        save_file(arrays, folder / name)
    for file, content in configs.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    return folder


def linear(name, layer):
    """PyTorch's matrix is (out, in)."""
    return {f"{name}.weight": layer[0].T, f"{name}.bias": layer[1]}


def norm(name, layer, weight="weight", bias="bias"):
    return {f"{name}.{weight}": layer[0], f"{name}.{bias}": layer[1]}


def joined(layers, names="qkv"):
    weight = np.concatenate([layers[n][0].T for n in names])
    return weight, np.concatenate([layers[n][1] for n in names])


def convolution(patch):
    return patch.transpose(3, 2, 0, 1)  # (P, P, 3, C) to OIHW


def _numbered(tower, at, names):
    """Blocks whose layers have names of their own: ours → theirs."""
    arrays = {}
    for i, block in enumerate(tower.blocks):
        for ours, theirs in names.items():
            make = norm if ours.startswith("norm") else linear
            arrays |= make(f"{at}.{i}.{theirs}", block[ours])
    return arrays


def _open_clip_blocks(tower, at):
    arrays = _numbered(
        tower,
        at,
        {
            **{"norm1": "ln_1", "norm2": "ln_2", "o": "attn.out_proj"},
            **{"up": "mlp.c_fc", "down": "mlp.c_proj"},
        },
    )
    for i, block in enumerate(tower.blocks):
        weight, bias = joined(block)
        arrays |= {f"{at}.{i}.attn.in_proj_weight": weight, f"{at}.{i}.attn.in_proj_bias": bias}
    return arrays


def _open_clip_text(tower, at, projection):
    la = tower.layers
    return {
        f"{at}token_embedding.weight": la["words"],
        f"{at}positional_embedding": la["positions"],
        **_open_clip_blocks(tower, f"{at}transformer.resblocks"),
        **norm(f"{at}ln_final", la["norm"]),
        **projection,
    }


def open_clip_config(image, text, pixels=CLIP, **model):
    width = image.layers["patch"].shape[3]
    vision = {"head_width": width // image.heads, **model.pop("vision_cfg", {})}
    words = {"heads": text.heads, **model.pop("text_cfg", {})}
    return {
        "open_clip_config.json": {
            "model_cfg": {"vision_cfg": vision, "text_cfg": words, **model},
            "preprocess_cfg": {"mean": pixels[0], "std": pixels[1]},
        }
    }


def open_clip(image, text, scale, at=""):
    """CLIP; both towers project without a bias, and the patch convolution has none."""
    la = image.layers
    return {
        "visual.conv1.weight": convolution(la["patch"]),
        "visual.class_embedding": la["cls"],
        "visual.positional_embedding": np.vstack([la["cls_position"], la["positions"]]),
        **norm("visual.ln_pre", la["pre"]),
        **_open_clip_blocks(image, "visual.transformer.resblocks"),
        **norm("visual.ln_post", la["norm"]),
        "visual.proj": la["projection"],
        **_open_clip_text(text, at, {f"{at}text_projection": text.layers["projection"][0]}),
        "logit_scale": np.asarray(scale),
    }


def open_clip_siglip(image, text, scale, bias):
    la, head, at = image.layers, image.layers["head"], "visual.trunk."
    kv, kv_bias = joined(head, "kv")
    arrays = _numbered(
        image,
        f"{at}blocks",
        {
            **{"norm1": "norm1", "norm2": "norm2", "o": "attn.proj"},
            **{"up": "mlp.fc1", "down": "mlp.fc2"},
        },
    )
    for i, block in enumerate(image.blocks):
        weight, biases = joined(block)
        arrays |= {
            f"{at}blocks.{i}.attn.qkv.weight": weight,
            f"{at}blocks.{i}.attn.qkv.bias": biases,
        }
    return {
        **arrays,
        f"{at}patch_embed.proj.weight": convolution(la["patch"]),
        f"{at}patch_embed.proj.bias": la["patch_bias"],
        f"{at}pos_embed": la["positions"][None],
        **norm(f"{at}norm", la["norm"]),
        f"{at}attn_pool.latent": head["probe"][None, None],
        **linear(f"{at}attn_pool.q", head["q"]),
        f"{at}attn_pool.kv.weight": kv,
        f"{at}attn_pool.kv.bias": kv_bias,
        **linear(f"{at}attn_pool.proj", head["o"]),
        **norm(f"{at}attn_pool.norm", head["norm"]),
        **linear(f"{at}attn_pool.mlp.fc1", head["up"]),
        **linear(f"{at}attn_pool.mlp.fc2", head["down"]),
        **_open_clip_text(text, "text.", linear("text.text_projection", text.layers["projection"])),
        "logit_scale": np.asarray(scale),
        "logit_bias": np.asarray(bias),
    }


_HF_BLOCK = {
    **{"norm1": "layer_norm1", "norm2": "layer_norm2", "up": "mlp.fc1", "down": "mlp.fc2"},
    **{n: f"self_attn.{t}_proj" for n, t in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))},
}


def _hf_text(tower):
    la = tower.layers
    return {
        "text_model.embeddings.token_embedding.weight": la["words"],
        "text_model.embeddings.position_embedding.weight": la["positions"],
        **_numbered(tower, "text_model.encoder.layers", _HF_BLOCK),
        **norm("text_model.final_layer_norm", la["norm"]),
    }


def huggingface_clip(image, text, scale):
    la, at = image.layers, "vision_model.embeddings."
    return {
        f"{at}class_embedding": la["cls"],
        f"{at}patch_embedding.weight": convolution(la["patch"]),
        f"{at}position_embedding.weight": np.vstack([la["cls_position"], la["positions"]]),
        **norm("vision_model.pre_layrnorm", la["pre"]),
        **_numbered(image, "vision_model.encoder.layers", _HF_BLOCK),
        **norm("vision_model.post_layernorm", la["norm"]),
        "visual_projection.weight": la["projection"].T,
        **_hf_text(text),
        "text_projection.weight": text.layers["projection"][0].T,
        "logit_scale": np.asarray(scale),
    }


def huggingface_siglip(image, text, scale, bias):
    la, head, at = image.layers, image.layers["head"], "vision_model."
    weight, biases = joined(head)
    return {
        f"{at}embeddings.patch_embedding.weight": convolution(la["patch"]),
        f"{at}embeddings.patch_embedding.bias": la["patch_bias"],
        f"{at}embeddings.position_embedding.weight": la["positions"],
        **_numbered(image, f"{at}encoder.layers", _HF_BLOCK),
        **norm(f"{at}post_layernorm", la["norm"]),
        f"{at}head.probe": head["probe"][None, None],
        f"{at}head.attention.in_proj_weight": weight,
        f"{at}head.attention.in_proj_bias": biases,
        **linear(f"{at}head.attention.out_proj", head["o"]),
        **norm(f"{at}head.layernorm", head["norm"]),
        **linear(f"{at}head.mlp.fc1", head["up"]),
        **linear(f"{at}head.mlp.fc2", head["down"]),
        **_hf_text(text),
        **linear("text_model.head", text.layers["projection"]),
        "logit_scale": np.asarray([scale]),
        "logit_bias": np.asarray([bias]),
    }


def huggingface_config(image, text, pixels):
    side = lambda tower: {
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(tower.act, tower.act),
        "layer_norm_eps": tower.eps,
        "num_attention_heads": tower.heads,
    }
    return {
        "config.json": {"vision_config": side(image), "text_config": side(text)},
        "preprocessor_config.json": {"image_mean": pixels[0], "image_std": pixels[1]},
    }


def bert(tower, prefix="", weight="weight", bias="bias"):
    la, at = tower.layers, f"{prefix}embeddings."
    names = {
        **{n: f"attention.self.{t}" for n, t in (("q", "query"), ("k", "key"), ("v", "value"))},
        **{"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
    }
    arrays = _numbered(tower, f"{prefix}encoder.layer", names)
    for i, block in enumerate(tower.blocks):
        for n, t in (("norm1", "attention.output.LayerNorm"), ("norm2", "output.LayerNorm")):
            arrays |= norm(f"{prefix}encoder.layer.{i}.{t}", block[n], weight, bias)
    return {
        **arrays,
        f"{at}word_embeddings.weight": la["words"],
        f"{at}position_embeddings.weight": la["positions"],
        f"{at}token_type_embeddings.weight": la["types"],
        **norm(f"{at}LayerNorm", la["norm"], weight, bias),
        f"{at}position_ids": np.arange(len(la["positions"]))[None],
        **linear(f"{prefix}pooler.dense", tower.blocks[0]["q"]),
    }


def huggingface_vit(tower, prefix="vit.", modules=False):
    """By the names of files, or of transformers 5's modules."""
    la, at = tower.layers, f"{prefix}embeddings."
    qkv = (("q", "query"), ("k", "key"), ("v", "value"))
    names = {
        **{"norm1": "layernorm_before", "norm2": "layernorm_after"},
        **{n: f"attention.attention.{t}" for n, t in qkv},
        **{"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"},
    }
    if modules:
        names |= {n: f"attention.{n}_proj" for n in "qkvo"} | {"up": "mlp.fc1", "down": "mlp.fc2"}
    return {
        f"{at}cls_token": la["cls"][None, None],
        f"{at}position_embeddings": np.vstack([la["cls_position"], la["positions"]])[None],
        f"{at}patch_embeddings.projection.weight": convolution(la["patch"]),
        f"{at}patch_embeddings.projection.bias": la["patch_bias"],
        **_numbered(tower, f"{prefix}{'layers' if modules else 'encoder.layer'}", names),
        **norm(f"{prefix}layernorm", la["norm"]),
    }
