"""Patch-text evaluation with known scores, and with the real model."""

import functools

import jax
import numpy as np
import pytest
from lookup_model import GreySource, LookupModel, NumberTokenizer
from tiny_model import encode_site

from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError
from timix_jax.evaluators import EvaluationInputs, build_evaluator
from timix_jax.evaluators.patch_text import score_regions
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape

GRID = 4  # patches of 2 px on the 8 px images of GreySource


def make_mesh(devices: int) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def make_evaluator(source, devices=1, max_regions=5):
    inputs = EvaluationInputs(
        model=LookupModel(GRID),
        source=source,
        tokenizer=NumberTokenizer(),
        mesh=make_mesh(devices),
        image_size=8,
        max_tokens=4,
        batch_size=3,
        max_regions=max_regions,
    )
    return build_evaluator("patch_text", inputs)


def make_case():
    """Return 11 images with 0 to 7 regions on patch borders, and labels (regions, 16) by hand."""
    rng = np.random.default_rng(0)
    regions, labels, pairs = [], [], []
    for image in range(11):
        row = []
        for _ in range(image % 8):
            left, top = rng.integers(0, GRID - 1, 2)
            right, bottom = rng.integers([left + 1, top + 1], GRID)
            box = (2.0 * left, 2.0 * top, 2.0 * (right - left), 2.0 * (bottom - top))
            text = int(rng.integers(0, 9))
            row.append(Region(str(text), box))
            inside = np.zeros((GRID, GRID), bool)
            inside[top:bottom, left:right] = True
            labels.append(inside.reshape(-1))
            pairs.append((image, text))
        regions.append(row)
    params = {
        "images": np.ones((11, 2), np.float32),
        "texts": rng.normal(size=(9, 2)).astype(np.float32),
        # Few levels, so that there are ties.
        "logits": rng.integers(-2, 3, (11, 9, GRID**2)).astype(np.float32),
        "patches": rng.normal(size=(11, GRID**2, 2)).astype(np.float32),
    }
    source = GreySource([[0]] * 11, regions)
    return source, params, np.array(labels), pairs


def expected_metrics(scores, labels):
    auc, pointing = [], []
    for s, y in zip(scores, labels, strict=True):
        difference = s[y][:, None] - s[~y][None]
        auc.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
        pointing.append(np.mean(y[s == s.max()]))
    return np.mean(auc), np.mean(pointing)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_known_scores(devices):
    source, params, labels, pairs = make_case()
    got = make_evaluator(source, devices).run(params)
    predictor = np.stack([params["logits"][i, t] for i, t in pairs])
    auc, pointing = expected_metrics(predictor, labels)
    assert got["auc"] == pytest.approx(auc)
    assert got["pointing"] == pytest.approx(pointing)
    cosine = np.stack([params["patches"][i] @ params["texts"][t] for i, t in pairs])
    auc, pointing = expected_metrics(cosine, labels)
    assert got["similarity_auc"] == pytest.approx(auc)
    assert got["similarity_pointing"] == pytest.approx(pointing)
    assert got["auc_chance"] == 0.5
    assert got["pointing_chance"] == pytest.approx(labels.mean())


def test_regions_per_row_do_not_matter():
    source, params, _, _ = make_case()
    expected = make_evaluator(source).run(params)
    assert make_evaluator(source, max_regions=2).run(params) == pytest.approx(expected)


def test_printed_line():
    source, _, _, _ = make_case()
    metrics = {"auc": 0.8764, "pointing": 0.5, "pointing_chance": 0.25}
    line = "patches: AUC 0.876 (chance 0.5), pointing game 50.0% (chance 25.0)"
    assert make_evaluator(source).text(metrics) == line


def test_right_scores_are_perfect_and_constant_ones_are_at_chance():
    source, params, labels, pairs = make_case()
    # One text a region would be needed for all to be right: keep each image's first region.
    regions = [source[i].regions[:1] for i in range(11)]
    first = {i: labels[n] for n, (i, _) in reversed(list(enumerate(pairs)))}
    source = GreySource([[0]] * 11, regions)
    for image, inside in first.items():
        params["logits"][image] = np.where(inside, 1.0, -1.0)
    got = make_evaluator(source).run(params)
    assert (got["auc"], got["pointing"]) == (1.0, 1.0)
    got = make_evaluator(source).run({**params, "logits": 0 * params["logits"]})
    assert got["auc"] == got["auc_chance"]
    assert got["pointing"] == pytest.approx(got["pointing_chance"])


def test_regions_of_the_whole_image_are_left_out():
    source, params, _, _ = make_case()
    expected = make_evaluator(source).run(params)
    whole = Region("1", (0.0, 0.0, 8.0, 8.0))
    more = GreySource([[0]] * 11, [[whole, *source[i].regions] for i in range(11)])
    assert make_evaluator(more).run(params) == pytest.approx(expected)
    with pytest.raises(UserError, match="no box smaller than its image"):
        make_evaluator(GreySource([[0]], [[whole]])).run(params)


def test_source_without_boxes_is_refused():
    with pytest.raises(UserError, match="'grey:' has no boxes"):
        make_evaluator(GreySource([[0]]))


@pytest.mark.slow
def test_real_model_scores_regions_independently():
    model = DualEncoder(
        VitShape(16, 4, 16, 1, 2, 32), TextShape(20, 6, 16, 1, 2, 32), embed_dim=8, tpp_layer=0
    )
    params = jax.jit(model.init)(jax.random.key(0))
    # Fresh weights are so small that all scores are alike and a mix-up of the texts would not show.
    params = {
        **params,
        "patch_predictor": jax.tree.map(lambda p: 20 * p, params["patch_predictor"]),
    }
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    tokens = rng.integers(4, 20, (2, 2, 6)).astype(np.int32)
    boxes = np.tile(np.array([0, 0, 0.5, 0.25], np.float32), (2, 2, 1))

    @jax.jit
    def one_region(image, tokens):
        patches = model.embed_patches(params, image[None])
        text = model.encode_text(params, tokens[None])
        logp = model.patch_logp(params, encode_site(model, params, patches), text.cls)
        projected = model.project_patches(params, model.encode_image(params, patches).patches)
        return logp[0, :, 1], projected[0] @ text.embedding[0]

    jitted = jax.jit(functools.partial(score_regions, model))
    lowered = jitted.lower(params, images, tokens, boxes).as_text()
    assert lowered.count("precision = [HIGHEST, HIGHEST]") == 1  # the cosine of float32 embeddings
    got = jitted(params, images, tokens, boxes)
    assert got.predictor.shape == got.similarity.shape == got.labels.shape == (4, 16)
    for row, (b, r) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        predictor, cosine = one_region(images[b], tokens[b, r])
        np.testing.assert_allclose(got.predictor[row], predictor, rtol=1e-4)
        np.testing.assert_allclose(got.similarity[row], cosine, atol=1e-5)
        assert np.flatnonzero(got.labels[row]).tolist() == [0, 1]
    assert np.abs(got.predictor[0] - got.predictor[1]).max() > 1e-3  # the text matters
