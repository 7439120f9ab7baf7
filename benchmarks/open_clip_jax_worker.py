"""The process of benchmarks.open_clip_step that runs our training step."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.open_clip_shared import (
    ARCHITECTURES,
    CLIP_NORM,
    LEARNING_RATE,
    TEMPERATURE_RANGE,
    WEIGHT_DECAY,
    Architecture,
    random_batch,
    timix_tree,
)
from benchmarks.open_clip_step import CHECKED_STEPS
from benchmarks.pinned_worker import serve
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives.contrastive import Contrastive
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.training.flops import count_flops
from timix_jax.training.state import TrainState
from timix_jax.training.step import TrainStep, make_train_step


def build(sizes: Architecture, *, scan: bool = False, dtype: str = "float32") -> DualEncoder:
    """Build our dual encoder at these sizes; `dtype` is that of its products."""
    return DualEncoder(
        VitShape(
            sizes.image_size,
            sizes.patch,
            sizes.width,
            sizes.layers,
            sizes.heads,
            4 * sizes.width,
        ),
        TextShape(
            sizes.vocab_size,
            sizes.context,
            sizes.text_width,
            sizes.text_layers,
            sizes.text_heads,
            4 * sizes.text_width,
        ),
        embed_dim=sizes.embed_dim,
        tpp_layer=0,
        text_pre_norm=True,
        temperature_range=TEMPERATURE_RANGE,
        scan=scan,
        dtype=jnp.dtype(dtype),
    )


def make_step(
    model: DualEncoder, named: Mapping[str, np.ndarray], sizes: Architecture
) -> tuple[TrainStep, TrainState]:
    """Build the training step of the contrastive loss, without other losses, and its state with open_clip's weights.

    The patch predictor stays in the tree: without the losses that use it, it costs no more than its AdamW update.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    predictor = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), shapes["patch_predictor"])
    params = jax.tree.map(jnp.asarray, timix_tree(named, sizes)) | {"patch_predictor": predictor}
    rate = lambda step: jnp.full((), LEARNING_RATE)
    optimizer = make_optimizer(
        params,
        model.parameter_axes(),
        schedule=rate,
        name="adamw",
        b1=0.9,
        b2=0.999,
        weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP_NORM,
        lr_scales=(),
    )
    step = make_train_step(model, [Contrastive()], optimizer, schedule=rate, ema_decay=0.0, seed=0)
    return step, TrainState(jnp.zeros((), jnp.int32), params, None, optimizer.init(params))


def main() -> None:
    """Read the weights at `--weights`, check a few steps, then serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--scan", action="store_true")
    args = parser.parse_args()

    sizes = ARCHITECTURES[args.model]
    model = build(sizes, scan=args.scan, dtype=args.dtype)
    with np.load(args.weights) as named:
        step, first = make_step(model, dict(named), sizes)
    batch = jax.device_put(random_batch(sizes, args.batch))
    jitted = jax.jit(step, donate_argnums=0)
    first_shapes = jax.eval_shape(lambda: first)  # `first` is donated
    state = [first]

    def steps(count: int) -> list[dict[str, Any]]:
        metrics = []
        for _ in range(count):
            state[0], log = jitted(state[0], batch)
            metrics.append(log)
        return jax.block_until_ready(metrics)

    checked = steps(CHECKED_STEPS)
    report = {key: [float(log[key]) for log in checked] for key in ("loss", "grad_norm")}
    flops = count_flops(jitted.trace(first_shapes, batch).jaxpr).model
    serve(steps, report | {"flops": flops, "versions": f"jax {jax.__version__}"})


if __name__ == "__main__":
    main()
