"""Score sources against NumPy and finite differences, and what their names mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import GRID, make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.score_sources import SCORES, build_score_source, posterior
from timix_jax.objectives.score_sources.reader import ScoreReader
from timix_jax.objectives.score_sources.single_patch import NEIGHBOUR

MODEL = tiny_model(pool="gap")
N = GRID**2


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


@pytest.fixture(scope="module")
def teacher():
    return make_params(MODEL, seed=1)


@pytest.fixture(scope="module")
def batch():
    return {name: value for name, value in make_batch(6).items() if name != "regions"}


def scores_of(names, params, batch, teacher=None):
    """Return name → scores (B, N) of several sources of one step."""

    @jax.jit
    def run(params, teacher, batch):
        sources = {name: build_score_source(name, MODEL) for name in names}
        reader = ScoreReader(tuple(sources.values()))
        forward = make_forward(MODEL, (reader,), params, batch, 0, teacher)
        return {name: source(forward, "clean") for name, source in sources.items()}

    return {name: np.asarray(value) for name, value in run(params, teacher, batch).items()}


def z_score(x):
    return (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)


@jax.jit
def encode(params, batch):
    patches = MODEL.embed_patches(params, batch["image"])
    text = MODEL.encode_text(params, batch["tokens"]).embedding
    return patches, MODEL.encode_single_patches(params, patches), text


def smoothed(rows):
    """Return the mean over each patch's neighbourhood: 1 for itself, w for the next ones, w² for diagonals."""
    w, out = NEIGHBOUR, np.zeros_like(rows)
    for k, row in enumerate(rows.reshape(-1, GRID, GRID)):
        for y in range(GRID):
            for x in range(GRID):
                near = [
                    (w ** (abs(y - v) + abs(x - u)), row[v, u])
                    for v in range(max(y - 1, 0), min(y + 2, GRID))
                    for u in range(max(x - 1, 0), min(x + 2, GRID))
                ]
                total = sum(weight for weight, _ in near)
                out[k, y * GRID + x] = sum(weight * value for weight, value in near) / total
    return out


def test_single_patches_and_centred_captions(params, batch):
    _, single, text = map(np.asarray, encode(params, batch))
    want = z_score(smoothed(np.einsum("bnd,bd->bn", single, text - text.mean(axis=0))))
    got = scores_of(["single_patch"], params, batch)["single_patch"]
    np.testing.assert_allclose(got, want, atol=2e-5)
    given = np.linspace(-1, 1, text.shape[1], dtype=np.float32)
    got = scores_of(["single_patch"], params, {**batch, "caption_mean": given})["single_patch"]
    want = z_score(smoothed(np.einsum("bnd,bd->bn", single, text - given)))
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_posterior_is_the_softmax_over_the_captions(params, batch):
    _, single, text = map(np.asarray, encode(params, batch))
    tau = float(MODEL.temperature(params))
    near = np.moveaxis([smoothed(single[..., d]) for d in range(single.shape[2])], 0, 2)
    fits = np.exp(np.einsum("bnd,cd->bnc", near.astype(np.float64), text) / tau)
    own = np.stack([fits[k, :, k] for k in range(len(text))])
    (got,) = scores_of(["posterior"], params, batch).values()
    np.testing.assert_allclose(got, z_score(np.log(own / fits.sum(axis=2))), atol=1e-3)
    # Given captions take the place of the batch's.
    sample = text[::-2]
    (got,) = scores_of(["posterior"], params, {**batch, "caption_sample": sample}).values()
    fits = np.exp(np.einsum("bnd,cd->bnc", near.astype(np.float64), sample) / tau).sum(axis=2)
    np.testing.assert_allclose(got, z_score(np.log(own / (own + fits))), atol=1e-3)


def test_posterior_compares_with_a_limited_number_of_captions(params, batch, monkeypatch):
    monkeypatch.setattr(posterior, "CAPTIONS", 3)
    rows = [0, 2, 4]
    (got,) = scores_of(["posterior"], params, batch).values()
    _, _, text = encode(params, batch)
    sample = np.asarray(text)[rows]
    (want,) = scores_of(["posterior"], params, {**batch, "caption_sample": sample}).values()
    for k in range(len(got)):  # an own caption that counts twice changes the values, not the order
        if k in rows:
            np.testing.assert_array_equal(np.argsort(got[k]), np.argsort(want[k]))
        else:
            np.testing.assert_allclose(got[k], want[k], atol=1e-4)


@pytest.mark.slow
def test_gradient_is_that_of_finite_differences(x64, params, batch):
    wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
    model = tiny_model(pool="gap", dtype=jnp.float64)
    patches = model.embed_patches(wide, batch["image"])
    text = model.encode_text(wide, batch["tokens"]).embedding
    caption = text - text.mean(axis=0)
    width, step = patches.shape[2], 1e-5

    @jax.jit
    def slopes(patches):
        moves = step * jnp.eye(N * width).reshape(-1, 1, N, width)
        similarity = lambda x: jnp.sum(model.encode_image(wide, x).embedding * caption, axis=1)
        ahead, behind = (
            jax.lax.map(lambda move, sign=sign: similarity(patches + sign * move), moves)
            for sign in (1, -1)
        )
        return (ahead - behind).T.reshape(-1, N, width) / (2 * step)

    want = z_score(np.linalg.norm(slopes(patches), axis=2))
    got = scores_of(["gradient"], params, batch)["gradient"]
    np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.slow
def test_sums_teacher_and_other_captions(params, teacher, batch):
    names = [
        "tpp", "single_patch", "centre", "tpp+single_patch", "tpp+centre+single_patch",
        "shuffled:single_patch", "shuffled:tpp", "ema:single_patch", "ema:tpp",
        "ema:shuffled:tpp", "ema:similarity", "ema:gradient",
    ]  # fmt: skip
    got = scores_of(names, params, batch, teacher)
    parts = got["tpp"] + got["single_patch"]
    np.testing.assert_allclose(got["tpp+single_patch"], z_score(parts), atol=1e-5)
    parts = parts + got["centre"]
    np.testing.assert_allclose(got["tpp+centre+single_patch"], z_score(parts), atol=1e-5)

    rolled = {**batch, "tokens": np.roll(batch["tokens"], 1, axis=0)}
    others = scores_of(["tpp", "single_patch"], params, rolled)
    for name in ("tpp", "single_patch"):
        np.testing.assert_allclose(got[f"shuffled:{name}"], others[name], atol=1e-5)
        assert np.abs(got[f"shuffled:{name}"] - got[name]).max() > 0.1

    averages = scores_of(["tpp", "single_patch", "similarity", "gradient"], teacher, batch)
    for name, want in averages.items():
        np.testing.assert_allclose(got[f"ema:{name}"], want, atol=1e-4, err_msg=name)
    others = scores_of(["tpp"], teacher, rolled)["tpp"]
    np.testing.assert_allclose(got["ema:shuffled:tpp"], others, atol=1e-4)


def test_centre_falls_with_the_distance(params, batch):
    got = scores_of(["centre"], params, batch)["centre"]
    assert (got == got[0]).all()
    rows = got[0].reshape(GRID, GRID)
    np.testing.assert_allclose(rows, rows[::-1, ::-1])
    assert rows[1, 1] == rows[2, 2] == rows.max()
    assert rows[0, 0] == rows.min()


def test_no_gradient_flows_through_a_source(params, batch):
    for name in ("single_patch", "posterior", "gradient", "similarity", "tpp+single_patch"):
        source = build_score_source(name, MODEL)

        def total(params, source=source):
            forward = make_forward(MODEL, (ScoreReader((source,)),), params, batch, 0)
            return jnp.sum(source(forward, "clean") ** 3)

        slope = jax.jit(jax.grad(total))(params)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope)), name


def test_titles_are_the_names():
    for name in ("tpp", "ema:shuffled:tpp", "tpp+single_patch", "ema:tpp+shuffled:gradient"):
        assert build_score_source(name, MODEL).title == name
    assert build_score_source("centre+single_patch", MODEL).reads_text
    assert not build_score_source("centre+random", MODEL).reads_text
    assert build_score_source("single_patch+tpp", MODEL).trained == "pta"
    assert set(SCORES) >= {"tpp", "single_patch", "similarity", "gradient", "oracle"}


class Plain(ImageTextModel):
    grid = 4
    embed_dim = 8


def test_refusals():
    with pytest.raises(UserError, match="'saliency' is unknown"):
        build_score_source("tpp+saliency", MODEL)
    with pytest.raises(UserError, match="prefix 'mean' is unknown; use ema or shuffled"):
        build_score_source("mean:tpp", MODEL)
    with pytest.raises(
        UserError, match="'ema:single_patch' needs an image tower that encodes single"
    ):
        build_score_source("ema:single_patch", Plain())
