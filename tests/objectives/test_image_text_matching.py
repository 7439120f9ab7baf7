"""Matching with hard negatives: values, gradients, and what must not count as a negative."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_fusion
import pytest
from fusion_runs import counting_albef, encoded, fusion_batch, run, tiny_albef
from objective_runs import assert_trees_close
from tiny_model import make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.objectives import image_text_matching
from timix_jax.objectives.image_text_matching import ImageTextMatching, _cross_entropy
from timix_jax.objectives.pairs.similarities import Similarities

MODEL, ITM = tiny_albef(), ImageTextMatching()
ROWS = 8


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def found(params):
    return run(MODEL, (ITM,), params, fusion_batch())


def negatives(params, batch, objective=ITM, step=0):
    forward = make_forward(MODEL, (objective,), params, batch, step)
    images, texts = objective._negatives(forward)
    return np.asarray(images.index), np.asarray(texts.index)


def pairs_of(batch, images, texts):
    """Return the rows of images and of captions of all 3·B pairs, and whether they match."""
    own = np.arange(len(images))
    labels = np.repeat([1, 0, 0], len(own))
    return np.concatenate([own, images, own]), np.concatenate([own, own, texts]), labels


def test_the_loss_is_that_of_the_formula(params, found):
    batch = fusion_batch()
    loss, log, _ = found
    image, text, _ = encoded(MODEL, params, batch)
    shown, said, labels = pairs_of(batch, *negatives(params, batch))
    host = jax.tree.map(np.float64, params)
    tokens, states, mask = (np.asarray(x) for x in (image.tokens, text.tokens, text.mask))
    fused = numpy_fusion.fuse(host, np.float64(states[said]), mask[said], tokens[shown])
    logp = numpy_fusion.log_softmax(numpy_fusion.match_logits(host, fused))
    assert loss == pytest.approx(-logp[np.arange(3 * ROWS), labels].mean(), abs=2e-5)
    assert log["itm_accuracy"] == pytest.approx((logp.argmax(1) == labels).mean())
    assert log["itm_negatives"] == 1


@pytest.mark.slow
def test_the_gradient_is_that_of_all_pairs_written_out(params, found):
    """Without shared keys and values, with the similarities as constants."""
    batch = fusion_batch()
    shown, said, labels = pairs_of(batch, *negatives(params, batch))

    def loss(params):
        image, text, _ = encoded(MODEL, params, batch)
        memory = MODEL.image_memory(params, image.tokens[shown])
        fused = MODEL.fuse(params, text.tokens[said], text.mask[said], memory).text
        logp = jax.nn.log_softmax(MODEL.itm_logits(params, fused))
        return -jnp.mean(logp[jnp.arange(len(labels)), labels])

    assert_trees_close(found[2], jax.jit(jax.grad(loss))(params))


def test_similarities_get_no_gradient(found):
    """They would train the projections and the temperature to make negatives easy."""
    *_, grads = found
    for leaf in (
        grads["log_temperature"],
        *jax.tree.leaves(grads["image"]["projection"]),
        *jax.tree.leaves(grads["text"]["projection"]),
    ):
        assert not np.asarray(leaf).any()
    assert np.asarray(grads["image"]["pos_embed"]).any()
    assert np.asarray(grads["text"]["word_embed"]["embedding"]).any()


def test_each_row_uses_its_own_similarities(params, monkeypatch):
    """Public code draws on all devices by the similarities of the first."""
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((2, ROWS, 16)).astype(np.float32)
    s = image @ text.T
    np.fill_diagonal(s, -np.inf)
    for best in (s.argmax(0), s.argmax(1)):
        assert (best[: ROWS // 2] != best[ROWS // 2 :]).all()
    cold = Similarities(jnp.asarray(image), jnp.asarray(text), jnp.float32(1e-6))
    monkeypatch.setattr(image_text_matching, "similarities", lambda forward: cold)
    images, texts = negatives(params, fusion_batch())
    np.testing.assert_array_equal(images, s.argmax(axis=0))
    np.testing.assert_array_equal(texts, s.argmax(axis=1))


def test_similarities_are_those_of_the_embeddings(params):
    """With a tiny temperature a draw is the likeliest: of the own column for captions, of the own row for images."""
    batch = fusion_batch()
    cold = {**params, "log_temperature": jnp.log(1e-6)}
    image, text, _ = encoded(MODEL, cold, batch)
    s = np.asarray(image.embedding) @ np.asarray(text.embedding).T
    np.fill_diagonal(s, -np.inf)
    assert (s.argmax(0) != s.argmax(1)).any()
    images, texts = negatives(cold, batch)
    np.testing.assert_array_equal(images, s.argmax(axis=0))
    np.testing.assert_array_equal(texts, s.argmax(axis=1))


@pytest.mark.slow
def test_hardness_scales_the_similarities(params):
    """The temperature has no other part in the loss: half the hardness is twice the temperature."""
    batch = fusion_batch()
    warm = {**params, "log_temperature": params["log_temperature"] + jnp.log(2.0)}
    half = negatives(params, batch, ImageTextMatching(hardness=0.5))
    np.testing.assert_array_equal(half, negatives(warm, batch))
    growing = ImageTextMatching(hardness_steps=4)
    np.testing.assert_array_equal(
        negatives(params, batch, growing, 2), negatives(warm, batch, step=2)
    )
    np.testing.assert_array_equal(
        negatives(params, batch, growing, 5), negatives(params, batch, step=5)
    )
    assert (np.array(half) != negatives(params, batch)).any()
    # Without hardness the embeddings do not matter.
    none = ImageTextMatching(hardness=0.0)
    cold = {**params, "log_temperature": jnp.log(1e-6)}
    np.testing.assert_array_equal(negatives(params, batch, none), negatives(cold, batch, none))


def test_the_same_image_and_the_same_caption_are_no_negatives(params):
    batch = fusion_batch()
    batch["image_id"] = np.array([0, 0, 0, 0, 0, 0, 0, 7], np.int32)
    for step in range(5):
        images, texts = negatives(params, batch, step=step)
        assert set(images[:7]) == set(texts[:7]) == {7}
    batch = fusion_batch()
    batch["tokens"][:7] = batch["tokens"][0]
    for step in range(5):
        images, texts = negatives(params, batch, step=step)
        assert set(images[:7]) == set(texts[:7]) == {7}


def test_rows_without_negatives_do_not_count(params):
    batch = fusion_batch()
    batch["tokens"][:] = batch["tokens"][0]
    loss, log, grads = run(MODEL, (ITM,), params, batch)
    assert log["itm_negatives"] == 0
    image, text, _ = encoded(MODEL, params, batch)
    memory = MODEL.image_memory(params, image.tokens)
    logits = MODEL.itm_logits(params, MODEL.fuse(params, text.tokens, text.mask, memory).text)
    assert loss == pytest.approx(float(-jax.nn.log_softmax(logits)[:, 1].mean()), rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_the_mean_is_over_counted_pairs():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)), jnp.float32)
    counted = jnp.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]], bool)
    term = _cross_entropy(logits, counted)
    logp = numpy_fusion.log_softmax(np.float64(logits))
    losses = -np.concatenate([logp[:1, :, 1], logp[1:, :, 0]])
    assert term.loss == pytest.approx(losses[np.asarray(counted)].mean(), rel=1e-6)
    assert term.log["itm_negatives"] == pytest.approx(5 / 8)


def test_negatives_change_from_step_to_step(params):
    drawn = {tuple(np.concatenate(negatives(params, fusion_batch(), step=s))) for s in range(4)}
    assert len(drawn) > 1


def test_both_captions_of_an_image_share_its_keys_and_values(params):
    """One product for own images, one for exchanged ones: counted in the traced step."""
    batch = fusion_batch()
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Counting(type(MODEL)):
        def image_memory(self, params, tokens):
            calls.append(len(tokens))
            return super().image_memory(params, tokens)

    model = Counting(MODEL.dual, MODEL.fusion_depth)
    jax.eval_shape(lambda p: ITM(make_forward(model, (ITM,), p, batch, 0)).loss, params)
    assert calls == [ROWS, ROWS]


def test_both_towers_run_once():
    model = counting_albef()
    batch = fusion_batch()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    jax.eval_shape(lambda p: ITM(make_forward(model, (ITM,), p, batch, 0)).loss, shapes)
    assert sorted(model.dual.passes.values()) == [1, 1]


def test_what_cannot_work_is_refused(params):
    with pytest.raises(UserError, match=r"config.loss.itm: one image of a batch of 1 .*batch_size"):
        negatives(params, fusion_batch(1))
    with pytest.raises(UserError, match=r"config.loss.itm needs a fusion encoder"):
        ITM.reads(tiny_model())


@pytest.mark.parametrize("hardness", [-1.0, float("nan"), float("inf")])
def test_a_hardness_that_is_none_is_refused(hardness):
    with pytest.raises(UserError, match=r"config.loss.itm.hardness=.*give 0 .* 1 for ALBEF"):
        ImageTextMatching(hardness=hardness)
