"""Floating-point operations of a training step, from shapes alone, and what devices could do.

Counted are matrix products, 2 operations a multiply-add; norms, activations and softmaxes are left
out (a few percent at the usual widths). XLA's own count is of no use for this: it counts a scanned
layer once. Rematerialised passes don't count: utilisation is of the model's own work.
"""

from typing import Literal, NamedTuple

import jax

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.patch_dropout import kept_count
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
    """Forward FLOPs of the text-aware patch predictor (paper §1) for an image and a caption."""
    half, quarter = width // 2, width // 4
    a_patch = width * width + (2 * half + text_width) * half + half * quarter + quarter * 2
    return 2 * patches * a_patch


class Passes(NamedTuple):
    """What a step runs, over the global batch; "frozen" is forward only.

    Attributes:
        embedded, embedded_frozen: images through the stem.
        image_blocks, image_blocks_frozen: Σ images · blocks of the image tower that they pass.
        thinned_blocks: the same, of images that pass with the patches that dropout keeps only.
        projected: pooled image tokens that are projected.
        texts, texts_frozen: captions through the text tower.
        pairs, pairs_frozen: (image, caption) pairs through the patch predictor.
        logits, logits_frozen: entries of the similarity matrices.
    """

    embedded: float = 0
    embedded_frozen: float = 0
    image_blocks: float = 0
    image_blocks_frozen: float = 0
    thinned_blocks: float = 0
    projected: float = 0
    texts: float = 0
    texts_frozen: float = 0
    pairs: float = 0
    pairs_frozen: float = 0
    logits: float = 0
    logits_frozen: float = 0


def step_passes(
    model: DualEncoder,
    batch_size: int,
    *,
    clean: bool = True,
    teacher: bool = False,
    mixed: float = 0.0,
    placement: Literal["extra", "replace"] = "extra",
    score: str | None = None,
    region_images: int = 0,
    regions: int = 0,
    region_text: float = 1.0,
) -> Passes:
    """The passes of the dual encoder's step.

    Args:
        batch_size: B, over all devices.
        clean: whether the contrastive loss of unmixed images is trained on.
        teacher: whether a moving-average teacher encodes the batch too.
        mixed: share of the batch that is mixed, 0 for no mixing.
        placement: mixed images as a second view, or in the place of the clean ones.
        score: the score source of the mixer, or None for mixers without scores.
        region_images: images of the patch-text alignment, up to the predictor's block.
        regions: captions and boxes for each of those.
        region_text: cost of a region's text, which may be shorter, as a share of a caption's.
    """
    depth, site = model.image.depth, model.tpp_layer + 1
    b, extra = batch_size, placement == "extra"
    trained = b * clean + (mixed * b if extra else b * bool(mixed))
    pairs = region_images * regions
    # An extra view is scored from the clean pass; in its place, or where that pass lacks patches, a frozen pass is
    # needed.
    scored = mixed * b if extra else b * bool(mixed)
    blocks = {"tpp": site, "similarity": depth, "attention": depth - 1}.get(score or "", 0)
    scoring = 0 if extra and clean and not model.patch_dropout else scored * blocks
    thinned = trained * depth * bool(model.patch_dropout)
    return Passes(
        embedded=b + region_images,
        embedded_frozen=b * teacher,
        image_blocks=trained * depth - thinned + region_images * site,
        image_blocks_frozen=scoring + b * depth * teacher,
        thinned_blocks=thinned,
        projected=trained,
        texts=b + pairs * region_text,
        texts_frozen=b * teacher,
        pairs=pairs,
        pairs_frozen=scored if score == "tpp" else 0,
        logits=b * b * clean + (trained - b * clean) ** 2,
        logits_frozen=b * b * teacher,
    )


def train_step_flops(model: DualEncoder, passes: Passes) -> float:
    """FLOPs of a step over all devices: forward and, except for frozen passes, backward."""
    v, t, p = model.image, model.text, passes
    prefix = int(model.pool == "cls")
    block = block_flops(v.grid**2 + prefix, v.width, v.mlp_dim)
    kept = kept_count(v.grid**2, model.patch_dropout)
    thinned_block = block_flops(kept + prefix, v.width, v.mlp_dim)
    text = text_flops(t, embed_dim=model.embed_dim)
    predictor = predictor_flops(v.grid**2, v.width, t.width)
    logit = 2 * model.embed_dim
    trained = (
        p.embedded * patch_embed_flops(v)
        + p.image_blocks * block
        + p.thinned_blocks * thinned_block
        + p.projected * 2 * v.width * model.embed_dim
        + p.texts * text
        + p.pairs * predictor
        + p.logits * logit
    )
    frozen = (
        p.embedded_frozen * patch_embed_flops(v)
        + p.image_blocks_frozen * block
        + p.texts_frozen * text
        + p.pairs_frozen * predictor
        + p.logits_frozen * logit
    )
    return float(WITH_GRADIENT * trained + frozen)
