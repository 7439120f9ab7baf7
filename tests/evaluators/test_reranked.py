"""Two-stage retrieval: by hand on small tables, and against sorted lists."""

import numpy as np
import pytest
from lookup_fusion import LookupFusion
from lookup_model import GreySource, LookupModel, inputs_of, make_mesh

from timix_jax.errors import UserError
from timix_jax.evaluators import build_evaluator
from timix_jax.evaluators.match_scores import GROUP, _grouped
from timix_jax.evaluators.ranks import MISS
from timix_jax.evaluators.reranked import rerank, top_candidates

K, TAU = 5, 0.5


def unit(rng, rows, width=6):
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_case(images=23, seed=0):
    """A source with 1 to 4 captions per image, and tables in which matching is better than similarity."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, images)
    numbers = np.split(np.arange(counts.sum()), np.cumsum(counts)[:-1])
    owner = np.repeat(np.arange(images), counts)
    table = unit(rng, images)
    texts = table[owner] + 0.6 * unit(rng, len(owner))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    match = rng.normal(size=(images, len(owner), 2)).astype(np.float32)
    match[owner, np.arange(len(owner)), 1] += 2
    params = {"images": table, "texts": texts, "match": match}
    return GreySource(numbers), params, owner


def by_sorted_lists(params, owner, weight):
    """Return R@1/5/10 of whole lists: the K most similar by score, then the rest by similarity."""
    s = params["images"] @ params["texts"].T
    score = params["match"][..., 1] - params["match"][..., 0] + weight * s
    expected = {}
    for way, similar, scores, right in (
        ("i2t", s, score, owner[None] == np.arange(len(s))[:, None]),
        ("t2i", s.T, score.T, owner[:, None] == np.arange(len(s))),
    ):
        ranks = []
        for row in range(len(similar)):
            order = np.argsort(-similar[row])
            first = order[:K]
            listed = [*first[np.argsort(-scores[row, first])], *order[K:]]
            best = next(n for n, c in enumerate(listed) if right[row, c])
            ranks.append(sum(not right[row, c] for c in listed[:best]))
        for k in (1, 5, 10):
            expected[f"{way}_r{k}"] = np.mean(np.array(ranks) < k)
    return expected


@pytest.mark.parametrize(("devices", "hardness"), [(1, 1), (8, 0.5)])
def test_figures_are_those_of_sorted_lists(devices, hardness):
    source, params, owner = make_case()
    inputs = inputs_of(source, make_mesh(devices), 8, LookupFusion(tau=TAU))
    evaluator = build_evaluator("reranked", inputs, k=K, hardness=hardness)
    got = evaluator.run(params)
    for name, weight in (("itm", 0), ("itm_itc", hardness / TAU)):
        for key, value in by_sorted_lists(params, owner, weight).items():
            assert got[f"{name}_{key}"] == pytest.approx(value, abs=1e-12), (name, key)
    plain = build_evaluator("retrieval", inputs).run(params)
    for name in ("itm", "itm_itc"):
        recalls = [got[f"{name}_{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
        assert got[f"{name}_gain"] == pytest.approx(np.mean(recalls) - plain["mean_recall"])
    assert f"mean {100 * got['itm_gain']:+.1f}" in evaluator.text(got)
    assert got["itm_i2t_r1"] > plain["i2t_r1"]
    # Accuracy over each caption's own image and the most similar other one.
    odds = params["match"][..., 1] - params["match"][..., 0]
    s = (params["images"] @ params["texts"].T).T
    caption = np.arange(len(owner))
    s[caption, owner] = -2
    refused = odds[s.argmax(axis=1), caption] <= 0
    want = (np.mean(odds[owner, caption] > 0) + np.mean(refused)) / 2
    assert got["itm_accuracy"] == pytest.approx(want)
    assert "match accuracy" in evaluator.text(got)


def test_an_image_with_an_equal_caption_is_not_wrong():
    source, params, _ = make_case(3)
    source._captions = [[0], [0], [1]]
    params["texts"][0] = params["images"][0]
    got = build_evaluator("reranked", inputs_of(source, make_mesh(1), 8, LookupFusion()), k=3).run(
        params
    )
    odds = params["match"][..., 1] - params["match"][..., 0]
    own = np.mean([odds[0, 0] > 0, odds[1, 0] > 0, odds[2, 1] > 0])
    s = params["images"] @ params["texts"].T
    other = int(s[1, 1] > s[0, 1])
    wrong = np.mean([odds[2, 0] <= 0, odds[2, 0] <= 0, odds[other, 1] <= 0])
    assert got["itm_accuracy"] == pytest.approx((own + wrong) / 2)


def test_ranks_by_hand():
    base = np.array([7, 7, 7, 7, 7], np.int32)
    scores = np.array([[3, 2, 1], [3, 2, 1], [2, 2, 1], [3, 2, 1], [np.nan, 2, 1]], np.float32)
    right = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0]], bool)
    # First; second; a tie counts against it; not among the candidates; no score.
    assert rerank(base, scores, right).tolist() == [0, 1, 1, 7, MISS]
    nan_ahead = np.array([[3, np.nan, 1]], np.float32)
    assert rerank(base[:1], nan_ahead, right[:1]).tolist() == [1]


def test_candidates_are_the_most_similar_in_order():
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 1500), unit(rng, 40)
    found = top_candidates(queries, candidates, 7)
    s = queries @ candidates.T
    np.testing.assert_array_equal(found.index, np.argsort(-s, axis=1)[:, :7])
    np.testing.assert_array_equal(found.similarity, np.take_along_axis(s, found.index, axis=1))
    assert top_candidates(queries, candidates, 100).index.shape == (1500, 40)


def test_each_pair_has_a_place_in_a_row_of_its_image():
    rng = np.random.default_rng(2)
    image, caption = rng.integers(0, 5, 100), rng.integers(0, 50, 100)
    order, row_image, row_captions, place = _grouped(image, caption)
    row, column = np.divmod(place, GROUP)
    np.testing.assert_array_equal(row_image[row], image[order])
    np.testing.assert_array_equal(row_captions[row, column], caption[order])
    assert len(set(place.tolist())) == 100
    assert len(row_image) == sum(-(-n // GROUP) for n in np.bincount(image))


def test_what_cannot_work_is_refused():
    source, _, _ = make_case(3)
    with pytest.raises(UserError, match=r"reranked.k=0: give at least 1"):
        build_evaluator("reranked", inputs_of(source, make_mesh(1), 8, LookupFusion()), k=0)
    with pytest.raises(UserError, match=r"reranked.hardness=-1: give config.loss.itm.hardness"):
        build_evaluator("reranked", inputs_of(source, make_mesh(1), 8, LookupFusion()), hardness=-1)
    with pytest.raises(UserError, match="needs a fusion encoder"):
        build_evaluator("reranked", inputs_of(source, make_mesh(1), 8, LookupModel()))
