"""Scores of every source against loops over the texts, and what a score gains by reading the text."""

import jax.numpy as jnp
import numpy as np
import pytest
from lookup_model import GreySource, LookupModel, NumberTokenizer, make_mesh

from timix_jax.data.loading.annotated_texts import annotated_text_batches
from timix_jax.data.loading.share import Share
from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError
from timix_jax.evaluators import EvaluationInputs, build_evaluator

GRID, IMAGES, TEXTS = 4, 9, 12
MODEL = LookupModel(GRID)


def make_evaluator(source, devices=1, batch_size=4, **options):
    inputs = EvaluationInputs(
        model=MODEL,
        source=source,
        tokenizer=NumberTokenizer(),
        mesh=make_mesh(devices),
        image_size=8,
        max_tokens=4,
        batch_size=batch_size,
        max_regions=3,
        score="tpp",
    )
    return build_evaluator("patch_scores", inputs, **options)


@pytest.fixture(scope="module")
def case():
    """Return a source, its parameters, and per image the caption and (text, labels (16,), named) of each region."""
    rng = np.random.default_rng(0)
    regions, contents, captions = [], [], []
    for image in range(IMAGES):
        row, content = [], []
        for number in range(image % 4):
            left, top = rng.integers(0, GRID - 1, 2)
            right, bottom = rng.integers([left + 1, top + 1], GRID)
            inside = np.zeros((GRID, GRID), bool)
            inside[top:bottom, left:right] = True
            text, named = int(rng.integers(0, TEXTS)), number != 1
            box = (2.0 * left, 2.0 * top, 2.0 * (right - left), 2.0 * (bottom - top))
            row.append(Region(str(text), box, (0,) if named else ()))
            content.append((text, inside.reshape(-1), named))
        regions.append(row)
        contents.append(content)
        captions.append(int(rng.integers(0, TEXTS)))
    params = {
        "images": rng.normal(size=(IMAGES, 3)).astype(np.float32),
        "texts": rng.normal(size=(TEXTS, 3)).astype(np.float32),
        "logits": rng.integers(-2, 3, (IMAGES, TEXTS, GRID**2)).astype(np.float32),  # with ties
        "patches": rng.normal(size=(IMAGES, GRID**2, 3)).astype(np.float32),
    }
    source = GreySource([[caption] for caption in captions], regions)
    return source, params, captions, contents


def texts_of(kind, captions, contents):
    """Return (image, text, another image's text, named (16,), shown (16,)) of each text."""
    annotated = [image for image, content in enumerate(contents) if content]
    found = []
    for place, image in enumerate(annotated):
        after = annotated[(place + 1) % len(annotated)]
        content = contents[image]
        shown = np.any([inside for _, inside, _ in content], axis=0)
        if kind == "captions":
            named = np.any([inside for _, inside, named in content if named], axis=0)
            found.append((image, captions[image], captions[after], named, shown))
            continue
        for number, (text, _, _) in enumerate(content):
            named = np.any([inside for other, inside, _ in content if other == text], axis=0)
            others = contents[after]
            found.append((image, text, others[number % len(others)][0], named, shown))
    return found


def looped(texts, score):
    """Return AUC, pointing and named-against-clutter with the own text and with the other one."""
    figures = {}
    for which in (1, 2):
        auc, hits, against = [], [], []
        for row in texts:
            s, named, shown = score(row[0], row[which]), row[3], row[4]
            auc.append(pairwise(s, named, np.ones_like(named)))
            hits.append(np.mean(named[s == s.max()]))
            if (shown & ~named).any():
                against.append(pairwise(s, named, shown))
        figures[which] = np.mean(auc), np.mean(hits), np.mean(against)
    return figures[1], figures[2]


def pairwise(scores, labels, among):
    difference = scores[labels & among][:, None] - scores[~labels & among][None]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("kind", ["captions", "phrases"])
def test_figures_of_two_sources(case, kind, devices):
    source, params, captions, contents = case
    got = make_evaluator(source, devices, sources=("tpp", "similarity")).run(params)
    texts = texts_of(kind, captions, contents)
    for name, score in (
        ("tpp", lambda image, text: params["logits"][image, text]),
        ("similarity", lambda image, text: params["patches"][image] @ params["texts"][text]),
    ):
        own, other = looped(texts, score)
        for title, want in ((name, own), (f"shuffled:{name}", other)):
            figures = [got[f"{kind}/{title}/{f}"] for f in ("auc", "pointing", "named")]
            assert figures == pytest.approx(want, abs=1e-6), title
    assert got[f"{kind}/pointing_chance"] == pytest.approx(np.mean([row[3] for row in texts]))


def test_the_prior_reads_no_text_and_has_no_twin(case):
    source, params, captions, contents = case
    got = make_evaluator(source, sources=("tpp",)).run(params)
    axis = (np.arange(GRID) - (GRID - 1) / 2) ** 2
    centre = -(axis[:, None] + axis[None]).reshape(-1)
    own, _ = looped(texts_of("captions", captions, contents), lambda *_: centre)
    found = [got[f"captions/centre/{figure}"] for figure in ("auc", "pointing", "named")]
    assert found == pytest.approx(own)
    assert not any("shuffled:centre" in name for name in got)


def test_sources_of_the_report(case):
    source, params, _, _ = case
    lines = make_evaluator(source).text(make_evaluator(source).run(params)).splitlines()
    assert "AUC, pointing game, named against clutter" in lines[0]
    titles = [tuple(line.split()[:2]) for line in lines[1:]]
    names = ("tpp", "similarity", "gradient", "centre")  # what a LookupModel supports
    assert titles == [(kind, name) for kind in ("captions", "phrases") for name in names]


def test_a_score_that_does_not_read_the_text_is_warned_of(case, caplog):
    source, params, _, _ = case
    blind = {**params, "logits": np.repeat(params["logits"][:, :1], TEXTS, axis=1)}
    make_evaluator(source, sources=("tpp",)).run(blind)
    assert "'tpp' find what the caption names no better than with another image's" in caplog.text
    caplog.clear()
    _, _, captions, contents = case
    knowing = {**params, "logits": params["logits"] * 0}
    for image, text, _, named, _ in texts_of("captions", captions, contents):
        knowing["logits"][image, text] = named
    make_evaluator(source, sources=("tpp",)).run(knowing)
    assert not caplog.text


def test_rows_are_the_same_for_any_share(case):
    source = case[0]
    options = {
        "kind": "phrases", "image_size": 8, "max_tokens": 4, "max_boxes": 3, "batch_size": 4,
    }  # fmt: skip

    def rows(share):
        batches = annotated_text_batches(source, NumberTokenizer(), share=share, **options)
        return [
            tuple(map(bytes, (b["image"][k], b["tokens"][k], b["other_tokens"][k], b["named"][k])))
            for b in batches
            for k in np.flatnonzero(b["valid"])
        ]

    whole = rows(Share(1, (0,)))
    parts = rows(Share(2, (0,))) + rows(Share(2, (1,)))
    assert len(whole) == sum(image % 4 for image in range(IMAGES))
    assert sorted(parts) == sorted(whole)


def test_refusals(case):
    source, params, _, _ = case
    with pytest.raises(UserError, match="has no boxes"):
        make_evaluator(GreySource([[0]]))
    with pytest.raises(UserError, match="'saliency' is unknown"):
        make_evaluator(source, sources=("saliency",))
    with pytest.raises(UserError, match="single patches"):
        make_evaluator(source, sources=("single_patch",))
    everywhere = Region("1", (0.0, 0.0, 8.0, 8.0), (0,))
    whole = make_evaluator(GreySource([[0]], [[everywhere]]), sources=("tpp",))
    with pytest.raises(UserError, match="nothing to measure"):
        whole.check()
    make_evaluator(source, sources=("tpp",)).check()
    with pytest.raises(UserError, match="nothing to measure"):
        whole.run({name: jnp.asarray(value) for name, value in params.items()})
