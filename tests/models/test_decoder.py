"""The decoder against transformers' BLIP decoder, and its steps against its pass over whole texts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blip_decoder_cases import CASES, FIXTURE, draw, inputs
from objective_runs import assert_trees_close

from timix_jax.errors import UserError
from timix_jax.models.cached_attention import Kept
from timix_jax.models.decoder import Decoder


def decoder_of(case, **options):
    shape = CASES[case]
    return Decoder(
        shape.vocab_size,
        shape.max_tokens,
        shape.width,
        shape.depth,
        shape.heads,
        shape.mlp_dim,
        shape.states_width,
        eps=shape.eps,
        **options,
    )


def as_ours(case, get):
    """Return `get(name, shape)` of BLIP's parameters in the decoder's tree and layout."""
    s = CASES[case]
    head = s.width // s.heads

    def dense(name, out, into):
        return {"kernel": get(f"{name}.weight", (out, into)).T, "bias": get(f"{name}.bias", (out,))}

    def norm(name):
        name = f"{name}.LayerNorm"
        return {"scale": get(f"{name}.weight", (s.width,)), "bias": get(f"{name}.bias", (s.width,))}

    def split_heads(parts):
        kernel = np.stack([p["kernel"].reshape(-1, s.heads, head) for p in parts], axis=1)
        bias = np.stack([p["bias"].reshape(s.heads, head) for p in parts])
        return {"kernel": kernel, "bias": bias}

    def attention(name, sources):
        widths = {"query": s.width, "key": sources, "value": sources}
        parts = {k: dense(f"{name}.self.{k}", s.width, width) for k, width in widths.items()}
        out = dense(f"{name}.output.dense", s.width, s.width)
        return parts, {**out, "kernel": out["kernel"].reshape(s.heads, head, s.width)}

    def layer(i):
        name = f"bert.encoder.layer.{i}"
        own, out = attention(f"{name}.attention", s.width)
        cross, cross_out = attention(f"{name}.crossattention", s.states_width)
        query = split_heads([cross["query"]])
        return {
            "attention": {"qkv": split_heads([*own.values()]), "out": out},
            "norm1": norm(f"{name}.attention.output"),
            "cross_query": {"kernel": query["kernel"][:, 0], "bias": query["bias"][0]},
            "cross_key_value": split_heads([cross["key"], cross["value"]]),
            "cross_out": cross_out,
            "cross_norm": norm(f"{name}.crossattention.output"),
            "mlp": {
                "up": dense(f"{name}.intermediate.dense", s.mlp_dim, s.width),
                "down": dense(f"{name}.output.dense", s.width, s.mlp_dim),
            },
            "norm2": norm(f"{name}.output"),
        }

    words, places = "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings"
    head_name = "cls.predictions"
    layers = [layer(i) for i in range(s.depth)]
    return {
        "word_embed": {"embedding": get(words, (s.vocab_size, s.width))},
        "pos_embed": get(f"{places}.weight", (s.max_tokens, s.width))[None],
        "embed_norm": norm("bert.embeddings"),
        "blocks": {"layers": jax.tree.map(lambda *each: np.stack(each), *layers)},
        "head": {
            "dense": dense(f"{head_name}.transform.dense", s.width, s.width),
            "norm": norm(f"{head_name}.transform"),
            "bias": get(f"{head_name}.bias", (s.vocab_size,)),
        },
    }


@functools.cache
def drawn(case):
    return as_ours(case, functools.partial(draw, case))


@functools.partial(jax.jit, static_argnums=0)
def whole(decoder, params, tokens, states, mask):
    """Return the logits (B, T, V) of a pass over whole texts."""
    run = functools.partial(decoder.apply, {"params": params})
    memory = run(states, method="memory")
    return run(run(tokens, memory, mask), method="logits")


@pytest.mark.parametrize(
    "scan", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["scan", "unrolled"]
)
@pytest.mark.parametrize(
    "case", [c if c == "small" else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_equals_blip(case, scan):
    """Values and gradients; BLIP's softmax and norms are in float32 too."""
    given, want = inputs(case), np.load(FIXTURE)
    counted = (given["tokens"] != 0)[..., None]

    def loss(params, states):
        everything = np.ones_like(given["mask"])
        logits = whole(decoder_of(case, scan=scan), params, given["tokens"], states, everything)
        return jnp.sum(logits * given["cotangent"] * counted), logits

    (_, logits), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        drawn(case), given["states"]
    )
    np.testing.assert_allclose(logits * counted, want[f"{case}/logits"], atol=1e-4)
    expected = as_ours(case, lambda name, shape: want[f"{case}/{name}"].reshape(shape))
    assert_trees_close(grads, (expected, want[f"{case}/states"]), 1e-4)


@pytest.mark.parametrize(
    "case", [c if c == "small" else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_steps_equal_the_whole_pass(case):
    """Each position's logits from cached keys and values, three beams per image; the memory is not repeated."""
    shape, given, beams = CASES[case], inputs(case), 3
    decoder, params = decoder_of(case), drawn(case)
    run = functools.partial(decoder.apply, {"params": params})
    rng = np.random.default_rng(0)
    rows = beams * len(given["states"])
    tokens = rng.integers(0, shape.vocab_size, (rows, shape.max_tokens))

    @jax.jit
    def stepwise(tokens, states, mask):
        memory = run(states, method="memory")
        constants = run(memory, mask, method="constants")
        assert constants.memory[0].key.shape[0] == len(states)
        size = (rows, shape.heads, shape.max_tokens, shape.width // shape.heads)
        kept = [Kept(jnp.zeros(size), jnp.zeros(size))] * shape.depth

        def step(kept, position):
            logits, kept = run(constants, tokens[:, position], position, kept, method="step")
            return kept, logits

        return jax.lax.scan(step, kept, jnp.arange(shape.max_tokens))[1].swapaxes(0, 1)

    together = whole(decoder, params, tokens, given["states"], given["mask"])
    np.testing.assert_allclose(
        stepwise(tokens, given["states"], given["mask"]), together, atol=1e-5
    )


def test_no_token_sees_later_ones_or_masked_states():
    case = "small"
    shape, given, decoder, params = CASES[case], inputs(case), decoder_of(case), drawn(case)
    logits = whole(decoder, params, given["tokens"], given["states"], given["mask"])
    changed = given["tokens"].copy()
    changed[:, 4:] = 1 + changed[:, 4:] % (shape.vocab_size - 1)
    states = np.where(given["mask"][..., None], given["states"], 7.0)
    row = given["states"][:1, given["mask"][0]]  # without the masked ones
    alone = whole(decoder, params, given["tokens"][:1], row, np.ones(row.shape[:2], bool))
    np.testing.assert_allclose(alone[0], logits[0], atol=1e-5)
    other = whole(decoder, params, changed, states, given["mask"])
    np.testing.assert_allclose(other[:, :4], logits[:, :4], atol=1e-6)
    assert np.abs(other[:, 4:] - logits[:, 4:]).max() > 1e-2


def test_too_long_texts_are_refused():
    decoder = decoder_of("small")
    with pytest.raises(UserError, match="texts of 8 tokens exceed the decoder's 7"):
        decoder.apply({"params": drawn("small")}, jnp.zeros((1, 8), jnp.int32), None)
