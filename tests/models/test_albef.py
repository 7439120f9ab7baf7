"""ALBEF against NumPy, and the dual encoder inside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_fusion
import pytest
from fusion_runs import encoded, fusion_batch, tiny_albef
from tiny_model import make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.albef import Albef
from timix_jax.models.fusion_protocols import FusionModel
from timix_jax.models.protocols import (
    ClsAttending,
    PatchPredicting,
    PatchProjecting,
    SinglePatchEncoding,
    require,
)

MODEL = tiny_albef()


@jax.jit
def outputs(params, batch):
    """Return fused states, both heads, for one caption per image."""
    return apply(MODEL, params, batch)


def apply(model, params, batch, groups=1, key=None):
    image, text, _ = encoded(model, params, batch)
    states, mask = (jnp.repeat(x, groups, axis=0) for x in (text.tokens, text.mask))
    memory = model.image_memory(params, image.tokens)
    fused = model.fuse(params, states, mask, memory, key=key).text
    return fused, model.itm_logits(params, fused), model.word_logits(params, fused)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


def test_fusion_and_heads_are_those_of_the_formulas(params):
    batch = fusion_batch()
    fused, match, words = outputs(params, batch)
    image, text, _ = encoded(MODEL, params, batch)
    host = jax.tree.map(np.float64, params)
    want = numpy_fusion.fuse(
        host, np.float64(text.tokens), np.asarray(text.mask), np.float64(image.tokens)
    )
    np.testing.assert_allclose(fused, want, atol=5e-5)
    np.testing.assert_allclose(match, numpy_fusion.match_logits(host, want), atol=5e-5)
    np.testing.assert_allclose(words, numpy_fusion.word_logits(host, want), atol=2e-4)


def test_the_head_over_the_vocabulary_trains_the_word_table(params):
    """Σ of all logits is Σ_v ⟨x, table_v⟩ + …, so that each word gets the same gradient, the states of the head."""
    states = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16)), jnp.float32)

    def total(text):
        return MODEL.word_logits({**params, "text": text}, states).sum()

    table = jax.jit(jax.grad(total))(params["text"])["word_embed"]["embedding"]
    np.testing.assert_allclose(table, np.broadcast_to(table[:1], table.shape), atol=1e-5)
    assert np.abs(table).max() > 0.1


@pytest.mark.slow
def test_exchanging_two_patches_changes_the_outcome_of_fresh_weights():
    """Position embeddings that nothing reads would make it the same (a known error of public code)."""
    batch = fusion_batch()
    params = jax.jit(MODEL.init)(jax.random.key(0))
    _, text, _ = encoded(MODEL, params, batch)
    patches = MODEL.embed_patches(params, batch["image"])
    order = np.arange(MODEL.grid**2)
    order[[1, 6]] = order[[6, 1]]

    def match(patches):
        tokens = MODEL.encode_image(params, patches).tokens
        memory = MODEL.image_memory(params, tokens)
        return MODEL.itm_logits(params, MODEL.fuse(params, text.tokens, text.mask, memory).text)

    difference = match(patches) - match(patches[:, order])
    assert np.abs(difference).max() > 1e-4


def test_the_dual_encoder_s_parameters_stay_where_they_are(params):
    dual = tiny_model()
    whole, own = (jax.eval_shape(m.init, jax.random.key(0)) for m in (MODEL, dual))
    assert set(whole) == {*own, "fusion", "heads"}
    assert {name: whole[name] for name in own} == own
    axes = MODEL.parameter_axes()
    assert jax.tree.structure(axes) == jax.tree.structure(whole)
    assert {name: axes[name] for name in own} == dual.parameter_axes()
    batch = fusion_batch()
    for mine, theirs in zip(
        jax.tree.leaves(encoded(MODEL, params, batch)),
        jax.tree.leaves(encoded(dual, params, batch)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_it_can_do_what_the_dual_encoder_can():
    for ability in (PatchPredicting, PatchProjecting, SinglePatchEncoding, ClsAttending):
        assert isinstance(MODEL, ability)
    assert isinstance(MODEL, FusionModel)
    assert not isinstance(tiny_model(), FusionModel)
    with pytest.raises(
        UserError, match=r"config.loss.itm needs a fusion encoder .* DualEncoder lacks"
    ):
        require(tiny_model(), FusionModel, "config.loss.itm")


def test_evaluation_has_one_part_and_one_device_no_layout():
    dual = dataclasses.replace(tiny_albef().dual, microbatches=4)
    model = dataclasses.replace(tiny_albef(), dual=dual)
    assert model.for_evaluation().dual.microbatches == 1
    assert model.on_one_device().dual.layout is None


def test_without_fusion_it_is_refused():
    with pytest.raises(UserError, match="fusion_depth=0: give at least 1 layer"):
        Albef(tiny_model(), fusion_depth=0)
    with pytest.raises(UserError, match=r"model.text.dropout=1.0 is not a share"):
        tiny_albef(text_dropout=1.0)
