"""Cost of mixing itself against the forward and backward pass of the image encoder.

    python -m benchmarks.mixing --batch=16 --image_size=224

Mixing = scores given → windows → paste → targets, compiled alone; the encoder is a ViT-S/16 at the
same batch in the same process. Both are compiled first and the median of several runs is printed.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from benchmarks import program
from timix_jax.mixing import Mixer, Sample, build_mixer
from timix_jax.models.vit import VIT_SIZES, VisionTransformer, VitShape
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.targets import build_target

TARGET = 0.2  # percent of the encoder's forward and backward pass


def median_seconds(function: Callable[..., Any], *inputs: Any, repeats: int) -> float:
    """Median wall time of `function(*inputs)` in seconds, compilation left out."""
    jax.block_until_ready(function(*inputs))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def embed(model: VisionTransformer, images: jax.Array) -> jax.Array:
    """Pixels to image embeddings, the whole encoder."""
    return model(model.embed_patches(images))[0]


def encoder_pass(model: VisionTransformer) -> Callable[..., Any]:
    """Jit the gradient of a scalar of the image embedding with respect to the parameters."""

    def loss(params: Any, images: jax.Array) -> jax.Array:
        image = cast(jax.Array, model.apply(params, images, method=embed))
        return jnp.sum(jnp.square(image))

    return jax.jit(jax.grad(loss))


def mixing(mixer: Mixer, target: str) -> Callable[..., Any]:
    """Jit mixed tokens and both targets."""
    return jax.jit(functools.partial(_mix, mixer, target))


def mixing_and_back(mixer: Mixer, target: str) -> Callable[..., Any]:
    """Jit the same, and the cotangent of the mixed tokens pulled back to the clean ones."""

    def step(key: jax.Array, tokens: jax.Array, scores: jax.Array, logits: jax.Array) -> Any:
        def forward(clean: jax.Array) -> Any:
            return _mix(mixer, target, key, clean, scores, logits)

        mixed, pull, targets = jax.vjp(forward, tokens, has_aux=True)
        return mixed, pull(tokens), targets

    return jax.jit(step)


def _mix(
    mixer: Mixer,
    target: str,
    key: jax.Array,
    tokens: jax.Array,
    scores: jax.Array,
    logits: jax.Array,
) -> Any:
    mixed = mixer(key, Sample(tokens, scores=scores))
    shares = Shares.of(mixed, mixer.partners)
    return mixed.image, build_target(target).matrices(KINDS["softmax"], shares, logits)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224, help="pixels")
    parser.add_argument("--patch", type=int, default=16, help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", help="compute type of tokens and encoder")
    flags = parser.parse_args(argv)

    shape = VitShape(flags.image_size, flags.patch, *VIT_SIZES["S"])
    model = VisionTransformer(shape, embed_dim=256, dtype=jnp.dtype(flags.dtype))
    keys = jax.random.split(jax.random.key(0), 5)
    images = jax.random.normal(keys[0], (flags.batch, flags.image_size, flags.image_size, 3))
    params = jax.jit(lambda key: model.init(key, method=VisionTransformer.initialise))(keys[1])
    encoder = median_seconds(encoder_pass(model), params, images, repeats=flags.repeats)

    tokens = jax.random.normal(keys[2], (flags.batch, shape.grid**2, shape.width), flags.dtype)
    scores = jax.random.normal(keys[3], (flags.batch, shape.grid**2))
    logits = jax.random.normal(keys[4], (flags.batch, flags.batch))
    device = jax.devices()[0]
    print(
        f"ViT-S/{flags.patch} at {flags.image_size} px, batch {flags.batch}, {flags.dtype}, "
        f"{device.platform} ({device.device_kind}); forward + backward {encoder * 1e3:.1f} ms"
    )
    print(f"\n| mixer | mixing, ms | % of encoder (at most {TARGET}) | with its backward, ms | % |")
    print("|---|---|---|---|---|")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("timix", {}, "hard"),
        ("timix", {}, "pred"),
        ("timix", {"lambda_by": "mass"}, "hard"),
        ("timix", {"partner": "derangement"}, "hard"),
        ("random_window", {}, "hard"),
        ("mixup", {}, "hard"),
    ]
    for name, options, target in cases:
        mixer = build_mixer(name, grid=shape.grid, **options)
        if mixer is None:
            raise ValueError(f"{name} does not mix")
        inputs = (keys[0], images if mixer.space == "pixels" else tokens, scores, logits)
        # Mixing takes milliseconds at most: more repeats cost little and steady the median.
        alone, both = (
            median_seconds(build(mixer, target), *inputs, repeats=20 * flags.repeats)
            for build in (mixing, mixing_and_back)
        )
        label = " ".join([name, *(str(value) for value in options.values()), target])
        print(
            f"| {label} | {alone * 1e3:.2f} | {100 * alone / encoder:.3f} "
            f"| {both * 1e3:.2f} | {100 * both / encoder:.3f} |"
        )


if __name__ == "__main__":
    program.run(main)
