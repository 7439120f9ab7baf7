"""Matrix products of a dual encoder, computed from its shapes: the reference for the count in the jaxpr."""

import dataclasses
from collections.abc import Iterable

from timix_jax.models.patch_dropout import kept_count
from timix_jax.models.stems import stem_stages

WITH_GRADIENT = 3  # one product forward, two backward: for inputs and for weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """Parts of the model that a number of rows go through.

    Attributes:
      rows: images, captions or (image, caption) pairs of the global batch.
      gradient: forward and backward, or forward only.
      stem: pixels to patch embeddings. The pixels need no gradient, but their cost was counted as if they did.
      blocks: number of blocks of the image tower, from the first.
      thinned: those blocks see only the patches that patch dropout keeps.
      projected: the pooled image token goes to the shared space.
      text_tokens: length of a caption that goes through the text tower and its projection; 0 for none.
      predictor: the patch predictor.
      compared: embeddings of the other side that each row is compared with.
    """

    rows: int
    gradient: bool = True
    stem: bool = False
    blocks: int = 0
    thinned: bool = False
    projected: bool = False
    text_tokens: int = 0
    predictor: bool = False
    compared: int = 0


def block_flops(tokens, width, mlp_dim):
    """Return the forward FLOPs of one transformer block on one sequence: qkv, output, attention, MLP."""
    projections = 2 * tokens * width * (4 * width + 2 * mlp_dim)
    attention = 2 * 2 * tokens * tokens * width
    return projections + attention


def patch_embed_flops(shape, channels=3):
    """Return the forward FLOPs of one image's stem."""
    if shape.stem == "linear":
        return 2 * shape.grid**2 * (shape.patch**2 * channels) * shape.width
    total, side = 0, shape.image_size
    for joined, width in stem_stages(shape.patch, shape.width):
        side //= joined
        total += 2 * side**2 * (joined**2 * channels) * width
        channels = width
    return total


def vit_flops(shape, *, blocks=None, prefix=1, embed_dim=0):
    """Return the forward FLOPs of one image, the stem included."""
    depth = shape.depth if blocks is None else blocks
    one = block_flops(shape.grid**2 + prefix, shape.width, shape.mlp_dim)
    return patch_embed_flops(shape) + depth * one + 2 * shape.width * embed_dim


def text_flops(shape, *, embed_dim=0):
    """Return the forward FLOPs of one caption at its padded length; looking up words costs none."""
    one = block_flops(shape.max_tokens, shape.width, shape.mlp_dim)
    return shape.depth * one + 2 * shape.width * embed_dim


def predictor_flops(patches, width, text_width):
    """Return the forward FLOPs of the text-aware patch predictor for an image and a caption."""
    half, quarter = width // 2, width // 4
    a_patch = width * width + (2 * half + text_width) * half + half * quarter + quarter * 2
    return 2 * patches * a_patch


def pass_flops(model, run):
    """Return the FLOPs of a pass over all its rows."""
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
        a_row += text_flops(t._replace(max_tokens=run.text_tokens), embed_dim=model.embed_dim)
    return float((WITH_GRADIENT if run.gradient else 1) * run.rows * a_row)


def analytic_flops(model, passes: Iterable[Pass]):
    """Return the FLOPs of all passes."""
    return sum(pass_flops(model, run) for run in passes)
