"""New kinds of mixers, registered by one line each, through a real step of a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import method_reference as reference
import numpy as np
import pytest
from counting_model import counting
from ml_collections import ConfigDict
from objective_runs import (
    BATCH,
    MODEL,
    assert_trees_close,
    clean_logits,
    embeddings,
    gradient_with_targets,
    mixed,
    pixels,
    run,
)
from sample_mixers import SAMPLE_MIXERS, KeptPatches, SwappedWords
from tiny_model import GRID, TOKENS, make_batch, make_forward, make_params

from timix_jax.config import complete, default_config
from timix_jax.errors import UserError
from timix_jax.mixing import MIXERS
from timix_jax.objectives import build_objective

SEPARATOR = 2


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, mixer in SAMPLE_MIXERS.items():
        monkeypatch.setitem(MIXERS, name, mixer)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def batch():
    """Return a batch whose captions end with [SEP]."""
    batch = {name: value for name, value in make_batch(BATCH).items() if name != "regions"}
    last = np.sum(batch["tokens"] != 0, axis=1) - 1
    batch["tokens"][np.arange(BATCH), last] = SEPARATOR
    return batch


def test_settings_appear_in_the_configuration():
    for name, mixer in SAMPLE_MIXERS.items():
        fields = {f.name for f in dataclasses.fields(mixer)} - {"grid", "shards"}
        assert set(default_config().mix.options[name]) == fields, name
    wrong = ConfigDict({"mix": {"options": {"quadrants": {"owm": 0.5}}}})
    with pytest.raises(UserError, match=r"quadrants\.owm=0.5.*did you mean 'own'"):
        complete(wrong)


def join_by_hand(batch, partner):
    """Join pixels and captions of rows with their partners'; a row that is its own partner stays clean."""
    images, tokens = pixels(batch["image"]).copy(), np.array(batch["tokens"])
    for k, other in enumerate(partner):
        if other == k:
            continue
        half = images.shape[2] // 2
        images[k, :, half:] = pixels(batch["image"])[other, :, half:]
        own, theirs = ([t for t in batch["tokens"][i] if t] for i in (k, other))
        joined = (own + theirs[1:])[:TOKENS]
        tokens[k] = joined + [0] * (TOKENS - len(joined))
    return images, tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"placement": "extra"}, list(range(8))),
        ({"placement": "extra", "fraction": 0.5}, [0, 2, 4, 6]),
        ({"placement": "replace", "fraction": 0.5}, [1, 3, 5, 7]),
    ],
    ids=["extra", "half", "replace"],
)
def test_joined_captions(params, batch, options, rows):
    value, _, grads, (how, _) = run(mixed("joined_captions", **options), params, batch, 0)
    if options["placement"] == "extra":
        batch = {name: values[rows] for name, values in batch.items()}
        partner = np.arange(len(rows))[::-1]
    else:
        selected = np.isin(np.arange(BATCH), rows)
        partner = np.where(selected, np.arange(BATCH)[::-1], np.arange(BATCH))
    np.testing.assert_array_equal(how.partner, partner)
    images, tokens = join_by_hand(batch, partner)
    np.testing.assert_array_equal(how.tokens, tokens)
    lengths = np.sum(batch["tokens"] != 0, axis=1)
    assert (lengths + lengths[::-1] - 1 > TOKENS).any()  # some are cut
    S = clean_logits(params, {"image": images, "tokens": tokens})
    eye = np.eye(len(images), dtype=np.float32)
    assert value == pytest.approx(reference.both_ways(S, eye, eye), rel=2e-5)
    assert_trees_close(grads, gradient_with_targets(params, images, tokens, eye, eye))


def test_mixed_captions_need_no_second_pass_of_images(params, batch):
    objective = mixed("swapped_words", placement="extra", target="pred")
    model = counting(MODEL)

    def loss(params):
        objectives = (build_objective("itc"), objective)
        forward = make_forward(model, objectives, params, batch, 0)
        return sum(o(forward).loss for o in objectives)

    jax.eval_shape(jax.grad(loss), params)
    assert model.passes == {
        ("encode_image", "student", BATCH): 1,
        ("encode_text", "student", BATCH): 2,
    }


@pytest.mark.slow
def test_mixed_captions_value_and_gradient(params, batch):
    value, _, grads, _ = run(mixed("swapped_words"), params, batch, 0)
    tokens = np.array(batch["tokens"])
    tokens[:, 1] = tokens[::-1, 1]
    assert (tokens != batch["tokens"]).any()
    i2t, t2i = reference.hard_targets(np.full(BATCH, 0.75), np.arange(BATCH)[::-1])
    S = clean_logits(params, {**batch, "tokens": tokens})
    assert value == pytest.approx(reference.both_ways(S, i2t, t2i), rel=2e-5)
    want = gradient_with_targets(
        params, pixels(batch["image"]), tokens, jnp.float32(i2t), jnp.float32(t2i)
    )
    assert_trees_close(grads, want)


@pytest.mark.slow
def test_pooled_features_of_both_sides(params, batch):
    value, _, grads, _ = run(mixed("pooled_mixup"), params, batch, 0)
    i2t, t2i = map(np.float32, reference.hard_targets(np.full(BATCH, 0.7), np.arange(BATCH)[::-1]))

    @jax.jit
    @jax.value_and_grad
    def by_hand(params):
        image, text, tau = embeddings(params, batch["image"], batch["tokens"])
        image, text = 0.7 * image + 0.3 * image[::-1], 0.9 * text + 0.1 * text[::-1]
        image, text = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        logits = image @ text.T / tau
        rows = jnp.sum(i2t * jax.nn.log_softmax(logits, axis=1))
        columns = jnp.sum(t2i * jax.nn.log_softmax(logits.T, axis=1))
        return -(rows + columns) / (2 * BATCH)

    want, want_grads = by_hand(params)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)


@pytest.mark.slow
def test_kept_patches(params, batch):
    """The image tower sees only the kept patches."""
    value, _, grads, (how, _) = run(mixed("kept_patches"), params, batch, 0)
    assert how.kept.shape == (BATCH, GRID**2 // 2)
    eye = np.eye(BATCH, dtype=np.float32)
    seen = np.zeros((BATCH, GRID**2), bool)
    np.put_along_axis(seen, np.asarray(how.kept), True, axis=1)

    @jax.jit
    @jax.value_and_grad
    def by_hand(params):
        patches = MODEL.embed_patches(params, batch["image"])
        patches = jnp.where(seen[..., None], patches, 1e3)
        image = MODEL.encode_image(params, patches, kept=how.kept).embedding
        text = MODEL.encode_text(params, batch["tokens"]).embedding
        logits = image @ text.T / MODEL.temperature(params)
        rows, columns = (jnp.sum(eye * jax.nn.log_softmax(x, axis=1)) for x in (logits, logits.T))
        return -(rows + columns) / (2 * BATCH)

    want, want_grads = by_hand(params)
    assert value == pytest.approx(float(want), rel=2e-5)
    assert_trees_close(grads, want_grads)
    whole, *_ = run(build_objective("itc"), params, batch, 0)
    assert abs(value - whole) > 1e-3


@pytest.mark.parametrize("mixer", [SwappedWords, KeptPatches])
def test_images_of_a_mixer_that_declares_none_are_refused(params, batch, monkeypatch, mixer):
    """A shared clean pass would silently ignore them."""

    class Undeclared(mixer):
        space = "none"

        def __call__(self, key, sample):
            how = super().__call__(key, sample)
            return how if mixer is KeptPatches else how._replace(image=sample.image)

    monkeypatch.setitem(MIXERS, "undeclared", Undeclared)
    with pytest.raises(ValueError, match=r"space='none'"):
        run(mixed("undeclared"), params, batch, 0)
