"""Time and host memory of loading published weights, compared with reading the file.

    python -m benchmarks.load_weights                     # ViT-L/14 in open_clip's layout, 1.7 GB
    python -m benchmarks.load_weights --width 256 --depth 4

The file is written with random weights and read once before, so that it lies in the page cache; reading puts its bytes
into memory, too. Memory is the growth of a process's resident memory at its highest, over the size of the parameters.
Linux only.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from timix_jax.inference.published import place_weights, settings_of
from timix_jax.parallel.mesh import make_mesh
from timix_jax.pretrained import read_public
from timix_jax.reporting.peak_memory import host_peak_bytes
from timix_jax.training.build import build_model
from timix_jax.training.build.stored import stored_settings

TARGETS = {"time": "≤ 1.5", "memory": "≤ 1.3"}
_VOCABULARY, _TOKENS = 49_408, 77


def write_weights(folder: Path, width: int, depth: int, patch: int = 14, grid: int = 16) -> Path:
    """Write random weights of a CLIP whose text tower has three quarters of the width and half the depth."""
    noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * 0.02

    def random(*shape: int) -> np.ndarray:
        return np.resize(noise, shape)

    def blocks(at: str, width: int, depth: int) -> dict[str, np.ndarray]:
        arrays = {}
        for layer in range(depth):
            for name, shape in {
                "ln_1.weight": (width,),
                "ln_1.bias": (width,),
                "ln_2.weight": (width,),
                "ln_2.bias": (width,),
                "attn.in_proj_weight": (3 * width, width),
                "attn.in_proj_bias": (3 * width,),
                "attn.out_proj.weight": (width, width),
                "attn.out_proj.bias": (width,),
                "mlp.c_fc.weight": (4 * width, width),
                "mlp.c_fc.bias": (4 * width,),
                "mlp.c_proj.weight": (width, 4 * width),
                "mlp.c_proj.bias": (width,),
            }.items():
                arrays[f"{at}resblocks.{layer}.{name}"] = random(*shape)
        return arrays

    text = width * 3 // 4
    arrays: dict[str, Any] = {
        "visual.conv1.weight": random(width, 3, patch, patch),
        "visual.class_embedding": random(width),
        "visual.positional_embedding": random(grid * grid + 1, width),
        **blocks("visual.transformer.", width, depth),
        "visual.proj": random(width, text),
        **blocks("transformer.", text, depth // 2),
        "token_embedding.weight": random(_VOCABULARY, text),
        "positional_embedding": random(_TOKENS, text),
        "text_projection": random(text, text),
        "logit_scale": np.asarray(4.6, np.float32),
    }
    for name, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text)):
        arrays |= {f"{name}.weight": random(size), f"{name}.bias": random(size)}
    file = folder / "open_clip_model.safetensors"
    save_file(arrays, file)
    config = {
        "model_cfg": {
            "quick_gelu": True,
            "vision_cfg": {"head_width": 64},
            "text_cfg": {"heads": text // 64},
        },
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return file


def read_seconds(file: Path) -> float:
    """Return the seconds that reading the file into memory takes."""
    started = time.perf_counter()
    file.read_bytes()
    return time.perf_counter() - started


def load_seconds(folder: Path) -> tuple[float, Any]:
    """Return the seconds from the folder to parameters on the device, and the parameters."""
    started = time.perf_counter()
    weights = read_public(folder, given={})
    fields, _ = settings_of(weights, {})
    model = build_model(stored_settings(fields), vocab_size=_VOCABULARY, pad_id=0)
    params = place_weights(weights, model, make_mesh(jax.local_devices()[:1]))
    jax.block_until_ready(params)
    return time.perf_counter() - started, params


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_weights(folder, args.width, args.depth)
        read_seconds(file)
        load_seconds(folder)  # JAX starts
        reads, loads = [], []
        for _ in range(args.repeats):
            reads.append(read_seconds(file))
            loads.append(load_seconds(folder)[0])
        # In a process of its own, whose memory holds nothing yet.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            memory, size = pool.submit(measure_memory, folder).result()
    ratio = statistics.median(b / a for a, b in zip(reads, loads, strict=True))
    read, load = statistics.median(reads), statistics.median(loads)
    print(
        "| parameters, GB | read, s | load, s | ratio | target | peak memory / parameters | target |"
    )
    print(
        f"| {size / 1e9:.2f} | {read:.2f} | {load:.2f} | {ratio:.2f} | {TARGETS['time']} |"
        f" {memory / size:.2f} | {TARGETS['memory']} |"
    )


def measure_memory(folder: Path) -> tuple[int, int]:
    """Return by how many bytes the resident memory grows at its highest, and the size of the parameters."""
    jax.eval_shape(lambda key: jax.random.normal(key, (2,)), jax.random.key(0))  # JAX starts
    before = host_peak_bytes()
    _, params = load_seconds(folder)
    grown = host_peak_bytes() - before
    return grown, sum(leaf.nbytes for leaf in jax.tree.leaves(params))


if __name__ == "__main__":
    main()
