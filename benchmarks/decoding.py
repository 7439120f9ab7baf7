"""A decoder that keeps keys and values against one that reads its whole text again at every step.

    python -m benchmarks.decoding --batch 16 --beams 3 --tokens 20 --width 256

Only the decoder is timed: image tokens and prefix are encoded before. Both searches find the same captions; the end
token is never likely, so that every caption has its full length. "whole text" also keeps the keys and values of the
image; "nothing kept" computes them at each step, like mPLUG's released code.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import program
from benchmarks.interleaved import interleaved_seconds, median_ratio
from timix_jax.decoding import Found, LengthPenalty, Search
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.fusion_protocols import FusedFeatures
from timix_jax.models.mplug import Mplug
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape

TARGET = 5.0
START, END, PAD = 2, 3, 0
PREFIX = 4  # tokens

Decode = Callable[[Any, FusedFeatures], Found]


def decoder_flops(model: Mplug, states: int, tokens: int, *, cached: bool) -> float:
    """Return the FLOPs per hypothesis of decoding so many tokens, matrix products alone; the memory apart."""
    text, layers = model.dual.text, model.decoder_depth
    width, hidden = text.width, text.mlp_dim
    one = 2 * layers * (4 * width**2 + 2 * width**2 + 2 * width * hidden)  # products of a token
    one += 2 * layers * 2 * width * states  # it reads the memory
    head = 2 * (width**2 + width * text.vocab_size)
    read = [position + 1 if cached else tokens for position in range(tokens)]
    steps = 1 if cached else tokens
    own = [2 * layers * 2 * width * seen * steps for seen in read]
    return sum(steps * one + head for _ in range(tokens)) + sum(own)


def cases(model: Mplug, search: Search) -> dict[str, Decode]:
    """Return the searches, as functions of parameters and fused states."""

    def memory(params: Any, fused: FusedFeatures) -> Any:
        return model.decoder_memory(params, fused, jnp.ones(fused.text.shape[:2], bool))

    def cached(params: Any, fused: FusedFeatures) -> Found:
        constants, cache = model.start_decoding(
            params, memory(params, fused), beams=search.beams, max_tokens=search.max_tokens
        )
        step = functools.partial(model.decode_step, params, constants)
        return search(step, cache, rows=len(fused.text))

    def whole(keeps_memory: bool, params: Any, fused: FusedFeatures) -> Found:
        rows = len(fused.text)
        kept = memory(params, fused)

        def step(tokens: jax.Array, position: jax.Array, texts: jax.Array) -> Any:
            at = jnp.arange(search.max_tokens) == position
            texts = jnp.where(at, tokens[..., None], texts)
            # A product with 1 that the compiler does not see through keeps the memory in the loop.
            again = jax.tree.map(lambda x: x + 0 * texts[0, 0, 0].astype(x.dtype), fused)
            read = kept if keeps_memory else memory(params, again)
            flat = texts.reshape(rows * search.beams, -1)
            states = model.decode(params, flat, read)
            states = jax.lax.dynamic_index_in_dim(states, position, 1, keepdims=False)
            logits = model.decoder_logits(params, states)
            return logits.reshape(rows, search.beams, -1), texts

        texts = jnp.full((rows, search.beams, search.max_tokens), PAD, jnp.int32)
        return search(step, texts, rows=rows)

    return {
        "cached": jax.jit(cached),
        "whole text": jax.jit(functools.partial(whole, True)),
        "nothing kept": jax.jit(functools.partial(whole, False)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--image_tokens", type=int, default=257)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args(argv)

    shape = flags.width, flags.depth, flags.heads, 4 * flags.width
    dual = DualEncoder(
        VitShape(32, 8, flags.width, 1, flags.heads, flags.width),
        TextShape(flags.vocab_size, flags.tokens, *shape),
        tpp_layer=0,
        scan=False,
    )
    model = Mplug(dual, fusion_depth=1, decoder_depth=flags.depth)
    search = Search(
        **{"start": START, "end": END, "pad": PAD, "beams": flags.beams},
        max_tokens=flags.tokens,
        min_tokens=flags.tokens,
        penalty=LengthPenalty("none"),
    )
    params = jax.jit(model.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1))
    fused = FusedFeatures(
        jax.random.normal(keys[0], (flags.batch, PREFIX, flags.width)),
        jax.random.normal(keys[1], (flags.batch, flags.image_tokens, flags.width)),
    )
    decoders = cases(model, search)
    found = {name: jax.block_until_ready(run(params, fused)) for name, run in decoders.items()}
    for name in ("whole text", "nothing kept"):
        np.testing.assert_allclose(found[name].logp, found["cached"].logp, rtol=1e-3)
    seconds = interleaved_seconds(
        {
            name: functools.partial(lambda run: jax.block_until_ready(run(params, fused)), run)
            for name, run in decoders.items()
        },
        repeats=flags.repeats,
    )
    states = flags.image_tokens + PREFIX
    device = jax.devices()[0]
    print(
        f"decoder {flags.depth} x {flags.width}, batch {flags.batch}, {flags.beams} beams, {flags.tokens} tokens,"
        f" {states} states, {device.platform} ({device.device_kind})"
    )
    print("\n| decoding | ms | ratio to cached | target | GFLOP per hypothesis, memory apart |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        ratio = median_ratio(seconds, name, "cached")
        target = "" if name == "cached" else f"≥ {TARGET:g}"
        flops = decoder_flops(model, states, flags.tokens, cached=name == "cached")
        print(
            f"| {name} | {1e3 * statistics.median(times):.0f} | {ratio:.1f} | {target} | {flops / 1e9:.3g} |"
        )


if __name__ == "__main__":
    program.run(main)
