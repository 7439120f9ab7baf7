"""Floating-point operations of a training step, from shapes alone, and what devices could do.

Counted are matrix products, 2 operations a multiply-add; norms, activations and softmaxes are left
out (a few percent at the usual widths). XLA's own count is of no use for this: it counts a scanned
layer once. Rematerialised passes don't count: utilisation is of the model's own work.
"""

import jax

from timix_jax.models.stems import stem_stages
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape

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
