"""Cross-modal CutMix: what captions show in place of words, the loss and its gradient, on any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_model import ConvModel
from fusion_runs import assert_same_result, run
from region_captions import LAST_NAME, WORDS, named_batch
from tiny_model import VOCABULARY, make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.albef import Albef
from timix_jax.models.protocols import ReplacedWords
from timix_jax.models.variants import TextVariant
from timix_jax.models.word_projection import WordProjection
from timix_jax.objectives import build_objective
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.objectives.views.region_patches import crop_regions
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh, put_batch

MODEL = tiny_model(word_projection=True)
STEP = 2


def cmc(rate=0.5, **options):
    return build_objective("cmc", rate=rate, vocabulary=WORDS, **options)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@functools.partial(jax.jit, static_argnums=(0, 1))
def passes(model, objective, params, batch, step=STEP):
    """Return the view's draw and words, and the features of its captions and of the plain ones."""
    forward = make_forward(model, (objective,), params, batch, step)
    view = objective.view
    plain, mixed = forward.text(), forward.text(view.name)
    return view.draw(forward), forward.view(view.name).words, plain, mixed


def test_without_replacements_the_captions_are_the_plain_ones_bit_by_bit(params):
    _, words, plain, mixed = passes(MODEL, cmc(0.0), params, named_batch())
    assert not np.asarray(words.at).any()
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(mixed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_name_shows_the_projected_stem_of_its_region(params):
    """With one region per name, at rate 1, nothing is left to chance."""
    batch = named_batch()
    shape = batch["regions"]["mask"].shape
    batch["regions"]["tokens"][..., 2] = np.arange(5, 5 + np.prod(shape)).reshape(shape)
    drawn, words, plain, mixed = passes(MODEL, cmc(1.0), params, batch)
    tokens, valid = batch["tokens"], batch["regions"]["mask"].reshape(-1)
    named = (tokens >= 5) & (tokens < 5 + len(valid))
    named[named] = valid[tokens[named] - 5]
    # A word whose next piece belongs to it is only a part of a word.
    inside = np.roll(tokens, -1, axis=1) >= VOCABULARY - 3
    np.testing.assert_array_equal(drawn.at, named & ~inside)
    assert 5 < named.sum() < (tokens > 2).sum()

    patch = batch["image"].shape[1] // MODEL.grid
    regions = batch["regions"]
    crops = crop_regions(regions["image"], regions["boxes"], patch).reshape(-1, patch, patch, 3)
    alone = jnp.tile(crops, (1, MODEL.grid, MODEL.grid, 1))
    patches = MODEL.embed_patches(params, alone)[:, 0]
    kernel, bias = (params["word_projection"]["output"][name] for name in ("kernel", "bias"))
    want = np.float64(patches) @ np.float64(kernel) + np.float64(bias)
    at = np.asarray(words.at)
    np.testing.assert_allclose(words.embeddings[at], want[tokens[at] - 5], rtol=1e-5, atol=1e-5)

    differs = np.abs(plain.embedding - mixed.embedding).max(axis=1) > 1e-5
    np.testing.assert_array_equal(differs, at.any(axis=1))


TEXTS = {
    "clip": {
        "text_variant": TextVariant(causal=True, pool="eot"),
        "text_pre_norm": True,
        "eot_id": 2,
    },
    "siglip": {"text_variant": TextVariant(pool="last", pad_mask=False), "text_pre_norm": True},
}


def with_regions_in_the_table(model, params, batch, drawn):
    """Return a model, parameters and captions where the regions are further words of the vocabulary."""
    regions = batch["regions"]
    patch = batch["image"].shape[1] // model.grid
    crops = crop_regions(regions["image"], regions["boxes"], patch).reshape(-1, patch, patch, 3)
    patches = model.embed_patches(params, jnp.tile(crops, (1, model.grid, model.grid, 1)))[:, 0]
    projection = params["word_projection"]["output"]
    shown = patches @ projection["kernel"] + projection["bias"]
    table = jnp.concatenate([params["text"]["word_embed"]["embedding"], shown])
    text = {**params["text"], "word_embed": {"embedding": table}}
    larger = model.text._replace(vocab_size=len(table))
    tokens = jnp.where(drawn.at, VOCABULARY + drawn.region, batch["tokens"])
    return dataclasses.replace(model, text=larger), {**params, "text": text}, tokens


@pytest.mark.parametrize(
    ("text", "loss"),
    [("clip", "softmax"), ("siglip", "sigmoid")],
)
@pytest.mark.slow
def test_loss_and_gradient_are_those_of_regions_as_words_of_the_vocabulary(text, loss):
    bias = {"logit_bias_init": -1.0} if loss == "sigmoid" else {}
    model = tiny_model(word_projection=True, **TEXTS[text], **bias)
    params, batch = make_params(model), named_batch(seed=1)
    objective = cmc(0.6, pairs=PairLoss(KINDS[loss]))
    drawn, *_ = passes(model, objective, params, batch)

    @jax.jit
    def embedded(params):
        image = model.encode_image(params, model.embed_patches(params, batch["image"])).embedding
        other, larger, tokens = with_regions_in_the_table(model, params, batch, drawn)
        mixed = other.encode_text(larger, tokens).embedding
        return image, model.encode_text(params, batch["tokens"]).embedding, mixed

    def pair_loss(xp, left, right, params):
        s = left @ right.T / xp.exp(params["log_temperature"])
        if loss == "sigmoid":
            sign = 2 * np.eye(len(s)) - 1
            return xp.sum(xp.log1p(xp.exp(-sign * (s + params["logit_bias"])))) / len(s)
        both = xp.log(xp.sum(xp.exp(s), axis=1)) + xp.log(xp.sum(xp.exp(s), axis=0))
        return xp.mean(both / 2 - xp.diagonal(s))

    def reference(params, xp=jnp):
        image, plain, mixed = embedded(params)
        if xp is np:
            image, plain, mixed = map(np.float64, (image, plain, mixed))
        return (pair_loss(xp, image, mixed, params) + pair_loss(xp, plain, mixed, params)) / 2

    value, log, grads = run(model, (objective,), params, batch, STEP)
    assert value == pytest.approx(float(reference(params, np)), rel=1e-5)
    want = jax.jit(jax.grad(reference))(params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    for (path, got), leaf in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(got, leaf, atol=2e-5 * scale, err_msg=str(path))
    at = np.asarray(drawn.at)
    assert log["cmc_words"] == pytest.approx(at.sum() / (batch["tokens"] > 2).sum())
    assert log["cmc_captions"] == pytest.approx(at.any(axis=1).mean())
    assert 0.1 < float(log["cmc_words"]) < 0.6
    assert 0 <= log["cmc_accuracy"] <= 1


def test_the_gradient_reaches_stem_and_projection_but_no_discarded_word(params):
    batch, objective = named_batch(), cmc(1.0)
    replaced = np.asarray(passes(MODEL, objective, params, batch)[0].at)

    @jax.jit
    @jax.grad
    def gradient(params):
        forward = make_forward(MODEL, (objective,), params, batch, STEP)
        weights = jnp.cos(jnp.arange(MODEL.embed_dim))
        return jnp.sum(forward.text(objective.view.name).embedding @ weights)

    grads = gradient(params)
    for leaf in (
        *jax.tree.leaves(grads["image"]["patch_embed"]),
        grads["word_projection"]["output"]["kernel"],
    ):
        assert np.abs(leaf).max() > 1e-3
    assert not np.asarray(grads["image"]["pos_embed"]).any()  # words have their own positions
    rows = np.asarray(grads["text"]["word_embed"]["embedding"])
    tokens = batch["tokens"]
    discarded = set(tokens[replaced]) - set(tokens[~replaced])
    assert discarded
    for word in range(VOCABULARY):
        read = word in set(tokens[~replaced]) - {0}
        assert np.abs(rows[word]).any() == read, word


def test_the_projection_is_there_for_the_loss_alone():
    plain, more = (
        jax.eval_shape(tiny_model(word_projection=on).init, jax.random.key(0))
        for on in (False, True)
    )
    assert "word_projection" not in plain
    shapes = more.pop("word_projection")["output"]
    assert (shapes["kernel"].shape, shapes["bias"].shape) == ((16, 16), (16,))
    assert more == plain
    fusion = Albef(MODEL, fusion_depth=1)
    assert "word_projection" in jax.eval_shape(fusion.init, jax.random.key(0))
    axes = fusion.parameter_axes()["word_projection"]["output"]
    assert axes["kernel"].muon == ((-2,), (-1,))


def test_a_fusion_model_reads_captions_as_its_dual_encoder(params):
    for rate in (0.0, 1.0):
        dual, fusion = (
            passes(model, cmc(rate), params, named_batch())
            for model in (MODEL, Albef(MODEL, fusion_depth=1))
        )
        np.testing.assert_array_equal(dual[3].embedding, fusion[3].embedding)


def test_fresh_projections_have_the_size_of_word_embeddings():
    patches = 0.5 * jax.random.normal(jax.random.key(1), (100, 64))
    words, _ = WordProjection(32).init_with_output(jax.random.key(0), patches)
    assert np.std(words) == pytest.approx(0.02, rel=0.2)


@pytest.mark.slow
def test_values_and_gradients_on_a_mesh_are_those_of_one_device():
    model = tiny_model(word_projection=True, text_dropout=0.2)
    params, batch = make_params(model), named_batch(16, region_images=16)
    want = run(model, (cmc(),), params, batch, STEP)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    layout = Layout(mesh, small=16).with_axes(model.parameter_axes())
    objective = cmc(pairs=PairLoss(reduction=PairReduction("ring", chunk=4, mesh=mesh)))
    got = run(
        dataclasses.replace(model, layout=layout, remat="full", microbatches=2),
        (objective,),
        jax.device_put(params, layout.shardings(params)),
        put_batch(batch, mesh),
        STEP,
    )
    assert_same_result(got, want, log_rel=1e-6)


def test_other_steps_replace_other_words(params):
    batch = named_batch()
    batch["tokens"][:, 1:-1] = np.random.default_rng(0).integers(5, LAST_NAME, (8, 4))
    drawn = [
        np.asarray(passes(MODEL, cmc(), params, batch, step)[0].at) for step in (STEP, 0, STEP)
    ]
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[2])


def test_what_cannot_work_is_refused(params):
    with pytest.raises(UserError, match=r"cmc\.rate=1\.5 is not a share of the names"):
        cmc(1.5)
    with pytest.raises(
        UserError,
        match=r"config\.loss\.cmc needs a text tower that reads patches .*, which ConvModel lacks",
    ):
        cmc().reads(ConvModel(16, VOCABULARY))
    batch = make_batch()
    del batch["regions"]
    forward = make_forward(MODEL, (cmc(),), params, batch, STEP)
    with pytest.raises(UserError, match=r"^config\.loss\.cmc .* which the batch lacks: .*$"):
        cmc()(forward)


def test_a_tower_replaces_words_at_their_own_positions(params):
    tokens = np.array([[1, 5, 6, 7, 2, 0]], np.int32)
    table = params["text"]["word_embed"]["embedding"]
    at = np.array([[False, False, True, True, False, False]])
    other = jnp.broadcast_to(table[9], (1, 6, 16))
    got = MODEL.encode_text(params, tokens, words=ReplacedWords(at, other))
    want = MODEL.encode_text(params, np.where(at, 9, tokens))
    np.testing.assert_array_equal(got.embedding, want.embedding)
