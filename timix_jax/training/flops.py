"""Floating-point operations of a training step, from shapes alone, and what devices could do.

Counted are matrix products, 2 operations a multiply-add; norms, activations and softmaxes are left
out (a few percent at the usual widths). XLA's own count is of no use for this: it counts a scanned
layer once. Rematerialised passes don't count: utilisation is of the model's own work.
"""

from collections.abc import Iterable

import jax

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.patch_dropout import kept_count
from timix_jax.models.stems import stem_stages
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.objectives.passes import Pass

# A backward pass has two products, for inputs and for weights, where the forward pass has one.
WITH_GRADIENT = 3

# Dense bfloat16 FLOP/s of a JAX device, from the makers' data sheets, by the start of device_kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,  # what JAX calls v5p; after "TPU v5 lite"
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,  # a core, which is a device: half a chip
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(device: jax.Device, given_tflops: float = 0.0) -> float | None:
    """FLOP/s that one device could reach, the denominator of its utilisation.

    Args:
        given_tflops: the user's own figure, TFLOP/s a device, such as that of float32; 0 for the
            table's, bfloat16.

    Returns:
        None for kinds that are not in the table (all CPUs), unless a figure is given.
    """
    if given_tflops:
        return given_tflops * 1e12
    return next((f for kind, f in PEAK_FLOPS.items() if device.device_kind.startswith(kind)), None)


def block_flops(tokens: int, width: int, mlp_dim: int) -> int:
    """Forward FLOPs of one transformer block on one sequence: qkv, output, attention, MLP."""
    projections = 2 * tokens * width * (4 * width + 2 * mlp_dim)
    attention = 2 * 2 * tokens * tokens * width
    return projections + attention


def patch_embed_flops(shape: VitShape, channels: int = 3) -> int:
    """Forward FLOPs of one image's stem."""
    if shape.stem == "linear":
        return 2 * shape.grid**2 * (shape.patch**2 * channels) * shape.width
    total, side = 0, shape.image_size  # of the grid of cells that a stage reads
    for joined, width in stem_stages(shape.patch, shape.width):
        side //= joined
        total += 2 * side**2 * (joined**2 * channels) * width
        channels = width
    return total


def vit_flops(
    shape: VitShape, *, blocks: int | None = None, prefix: int = 1, embed_dim: int = 0
) -> int:
    """Forward FLOPs of one image, the stem included.

    Args:
        blocks: how many blocks run; all by default.
        prefix: tokens beside the patches, 1 for [CLS].
        embed_dim: of the projection of the pooled token; 0 for none.
    """
    depth = shape.depth if blocks is None else blocks
    one = block_flops(shape.grid**2 + prefix, shape.width, shape.mlp_dim)
    return patch_embed_flops(shape) + depth * one + 2 * shape.width * embed_dim


def text_flops(shape: TextShape, *, embed_dim: int = 0) -> int:
    """Forward FLOPs of one caption at its full, padded length; looking up words costs none."""
    one = block_flops(shape.max_tokens, shape.width, shape.mlp_dim)
    return shape.depth * one + 2 * shape.width * embed_dim


def predictor_flops(patches: int, width: int, text_width: int) -> int:
    """Forward FLOPs of the text-aware patch predictor (docs/method.md §1) for an image and a caption."""
    half, quarter = width // 2, width // 4
    a_patch = width * width + (2 * half + text_width) * half + half * quarter + quarter * 2
    return 2 * patches * a_patch


def pass_flops(model: DualEncoder, run: Pass) -> float:
    """FLOPs of a pass over all its rows: forward and, with a gradient, backward."""
    v, t = model.image, model.text
    patches, prefix = v.grid**2, int(model.pool == "cls")
    seen = kept_count(patches, model.patch_dropout) if run.thinned else patches
    a_row = (
        run.stem * patch_embed_flops(v)
        + run.blocks * block_flops(seen + prefix, v.width, v.mlp_dim)
        + run.projected * 2 * v.width * model.embed_dim
        + run.predictor * predictor_flops(patches, v.width, t.width)
        + run.compared * 2 * model.embed_dim
    )
    if run.text_tokens:
        caption = t._replace(max_tokens=run.text_tokens)
        a_row += text_flops(caption, embed_dim=model.embed_dim)
    return float((WITH_GRADIENT if run.gradient else 1) * run.rows * a_row)


def train_step_flops(model: DualEncoder, passes: Iterable[Pass]) -> float:
    """FLOPs of a step over all devices; `passes` of `timix_jax.training.step.step_passes`."""
    return sum(pass_flops(model, run) for run in passes)
