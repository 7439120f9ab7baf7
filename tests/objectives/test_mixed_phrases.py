"""Captions joined by phrases, through the model: which windows are pasted, and what the captions say."""

import numpy as np
import pytest
from objective_runs import BATCH, MODEL, objective_of, run
from tiny_model import GRID, make_batch, make_forward, make_params

from timix_jax.mixing.joined import join_captions
from timix_jax.mixing.phrases import draw_phrases
from timix_jax.objectives.score_sources import build_score_source

STEP = 9


@pytest.mark.parametrize(
    ("score", "options"),
    [
        ("single_patch", {"placement": "replace", "fraction": 1.0}),
        ("tpp", {"placement": "among", "fraction": 0.5}),
    ],
)
@pytest.mark.slow
def test_windows_and_captions_follow_the_phrases(score, options):
    params, batch = make_params(MODEL), make_batch(BATCH)
    batch.pop("regions")
    words = np.random.default_rng(0).integers(4, 20, (BATCH, batch["tokens"].shape[1] - 2))
    ends = np.ones((BATCH, 1), int)
    batch["tokens"] = np.concatenate([ends, words, 2 * ends], axis=1).astype(np.int32)
    rows = np.arange(0, BATCH, round(1 / options["fraction"]))
    separators = (5, 6, 7, 8, 9)
    objective = objective_of(
        "timix",
        score,
        {"low": 0.4, "high": 0.5},
        captions="phrases",
        separators=separators,
        **options,
    )
    _, _, _, (how, _) = run(objective, params, batch, STEP)
    part = {name: value[rows] for name, value in batch.items()}
    seed = make_forward(MODEL, (objective,), params, batch, STEP).stream("phrases")
    phrases = np.asarray(draw_phrases(seed, part["tokens"], separators, 0))
    assert (phrases != part["tokens"]).any(axis=1).mean() >= 0.5
    source = build_score_source(score, MODEL)

    def windows(tokens):
        """Return the sums of scores over all windows (n, places)."""
        reader = objective_of("timix", score, placement="extra")
        forward = make_forward(MODEL, (reader,), params, {**part, "tokens": tokens}, STEP)
        scores = np.asarray(source(forward, "clean")).reshape(-1, GRID, GRID)
        r = int(how.window)
        return r, [
            [
                row[y : y + r, x : x + r].sum()
                for y in range(GRID - r + 1)
                for x in range(GRID - r + 1)
            ]
            for row in scores
        ]

    r, own = windows(part["tokens"])
    _, by_phrase = windows(phrases)
    images = np.asarray(how.image)[rows].reshape(len(rows), GRID, GRID, -1)
    clean = np.asarray(make_forward(MODEL, (objective,), params, batch, STEP).patches())[rows]
    expected = clean.reshape(images.shape).copy()
    partner = len(rows) - 1 - np.arange(len(rows))
    for k, other in enumerate(partner):
        (y, x), (v, u) = (
            divmod(int(place), GRID - r + 1)
            for place in (np.argmin(own[k]), np.argmax(by_phrase[other]))
        )
        expected[k, y : y + r, x : x + r] = clean.reshape(images.shape)[other, v : v + r, u : u + r]
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
    joined = join_captions(part["tokens"], phrases[partner], 0)
    np.testing.assert_array_equal(np.asarray(how.tokens)[rows], joined)
