"""Recall of whole evaluations: known figures, chance levels, devices, bad input."""

import itertools

import numpy as np
import pytest
from lookup_model import GreySource, LookupModel, inputs_of, make_mesh

from timix_jax.errors import UserError
from timix_jax.evaluators import build_evaluator
from timix_jax.evaluators.ranks import MISS, Ranks
from timix_jax.evaluators.retrieval import chance_recall, recall_metrics


def make_evaluator(source, mesh, batch_size=8, model=None, **options):
    return build_evaluator("retrieval", inputs_of(source, mesh, batch_size, model), **options)


def unit(rng, rows, dim=6):
    x = rng.normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_case(images=43, seed=0):
    """A source with 1 to 6 captions an image, the tables, and recall from whole sorted lists."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, images)
    numbers = np.split(rng.permutation(counts.sum()), np.cumsum(counts)[:-1])
    table = unit(rng, images)
    texts = np.zeros((counts.sum(), table.shape[1]), np.float32)
    for image, captions in enumerate(numbers):
        texts[captions] = table[image]
    texts += 0.6 * unit(rng, len(texts))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    owner = {c: i for i, captions in enumerate(numbers) for c in captions}
    similarity = table @ texts.T
    expected = {}
    for k in (1, 5, 10):
        top = np.argsort(-similarity, axis=1)[:, :k]
        # Karpathy: the best right caption, counted among the wrong ones and itself.
        hits = []
        for i in range(images):
            wrong = [c for c in range(len(texts)) if owner[c] != i]
            best = max(similarity[i, c] for c in numbers[i])
            hits.append(sum(similarity[i, wrong] >= best) < k)
            assert hits[-1] == any(owner[c] == i for c in top[i])  # the usual formulation agrees
        expected[f"i2t_r{k}"] = np.mean(hits)
        top = np.argsort(-similarity, axis=0)[:k]
        expected[f"t2i_r{k}"] = np.mean([owner[c] in top[:, c] for c in range(len(texts))])
    expected["mean_recall"] = np.mean(list(expected.values()))
    return GreySource(numbers), {"images": table, "texts": texts}, expected


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 1), (8, 1), (8, 2)])
def test_figures_are_those_of_sorted_lists(devices, fsdp):
    source, params, expected = make_case()
    got = make_evaluator(source, make_mesh(devices, fsdp)).run(params)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=1e-12), name
    assert 0.1 < got["i2t_r1"] < 0.9


@pytest.mark.parametrize("batch_size", [1, 5, 43, 100])
def test_batch_size_does_not_matter(batch_size):
    source, params, expected = make_case()
    got = make_evaluator(source, make_mesh(2), batch_size).run(params)
    assert {n: got[n] for n in expected} == pytest.approx(expected)


def test_weights_are_evaluated_anew_without_recompiling():
    source, params, _ = make_case(12)
    traces = []

    class Counting(LookupModel):
        def embed_patches(self, params, images):
            traces.append(images.shape)
            return super().embed_patches(params, images)

    evaluator = make_evaluator(source, make_mesh(1), 5, Counting())
    first = evaluator.run(params)
    wrong = evaluator.run({**params, "images": -params["images"]})
    assert evaluator.run(params) == first
    assert wrong["i2t_r1"] < first["i2t_r1"]
    assert traces == [(5, 8, 8, 3)]


def test_diverged_and_collapsed_weights_have_no_recall():
    source, params, _ = make_case(30)
    evaluator = make_evaluator(source, make_mesh(1))
    for value in (np.nan, 1 / np.sqrt(6)):
        got = evaluator.run({name: np.full_like(x, value) for name, x in params.items()})
        assert {got[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)} == {0.0}


def test_thresholds():
    ranks = Ranks(np.array([0, 1, 4, 5, 9, 10, MISS]), np.array([0, 0, 5, 10, 99, 99, MISS, 2]))
    got = recall_metrics(ranks, np.array([0, 1, 2, 3, 4, 5, 6, 6]))
    np.testing.assert_allclose(
        [got["i2t_r1"], got["i2t_r5"], got["i2t_r10"]], [1 / 7, 3 / 7, 5 / 7]
    )
    np.testing.assert_allclose(
        [got["t2i_r1"], got["t2i_r5"], got["t2i_r10"]], [2 / 8, 3 / 8, 4 / 8]
    )
    assert got["mean_recall"] == pytest.approx((1 + 3 + 5) / 42 + (2 + 3 + 4) / 48)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_chance_by_enumeration(k):
    positives = [1, 3]
    expected = np.mean(
        [
            np.mean([min(chosen) < c for chosen in itertools.combinations(range(6), min(k, 6))])
            for c in positives
        ]
    )
    assert chance_recall(6, np.array(positives), k) == pytest.approx(expected)


def test_chance_is_what_random_embeddings_reach():
    rng = np.random.default_rng(5)
    source, params, _ = make_case(60)
    random = {name: unit(rng, len(x), 64) for name, x in params.items()}
    got = make_evaluator(source, make_mesh(1), 64).run(random)
    assert got["i2t_chance_r10"] == pytest.approx(got["i2t_r10"], abs=0.2)
    assert got["t2i_chance_r10"] == pytest.approx(10 / 60)
    assert got["i2t_chance_r10"] > got["i2t_chance_r5"] > got["i2t_chance_r1"] > 0


def test_empty_source_is_refused():
    with pytest.raises(UserError, match="'grey:' is empty"):
        make_evaluator(GreySource([]), make_mesh(1))


def test_a_set_beyond_memory_is_refused(monkeypatch):
    source, params, _ = make_case(12)
    monkeypatch.setattr("timix_jax.runtime.machine.available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"grey:: 12 images .* GiB") as error:
        make_evaluator(source, make_mesh(1)).run(params)
    assert "\n" not in str(error.value)


def test_unknown_evaluators_and_options_are_refused():
    inputs = inputs_of(GreySource([[0]]), make_mesh(1))
    with pytest.raises(UserError, match="did you mean 'retrieval'"):
        build_evaluator("retreival", inputs)
    with pytest.raises(UserError, match="no option 'blocks'; its options: block"):
        build_evaluator("retrieval", inputs, blocks=2)
    with pytest.raises(UserError, match=r"config.eval.options.retrieval.block=0: give at least 1"):
        build_evaluator("retrieval", inputs, block=0)


def test_block_does_not_matter():
    source, params, expected = make_case()
    got = make_evaluator(source, make_mesh(2), block=7).run(params)
    assert {n: got[n] for n in expected} == pytest.approx(expected)


def test_printed_line():
    source, params, _ = make_case()
    evaluator = make_evaluator(source, make_mesh(1))
    metrics = evaluator.run(params) | {"i2t_r1": 0.12345, "t2i_r10": 1.0, "t2i_chance_r10": 0.5}
    line = evaluator.text(metrics)
    assert line.startswith("image→text R@1/5/10 12.3 / ")
    assert line.endswith(" / 100.0% (chance R@10 50.0)")
    assert ")  text→image R@1/5/10 " in line
