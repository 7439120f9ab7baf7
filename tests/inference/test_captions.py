"""Captions of a loaded model: those of plain greedy decoding and of the evaluator, in any batches, on any devices."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_model import save_model

import timix_jax
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError
from timix_jax.evaluators import EvaluationInputs, build_evaluator
from timix_jax.evaluators.caption_metrics import score_captions
from timix_jax.inference.model import LoadedModel
from timix_jax.parallel.mesh import make_mesh, replicated
from timix_jax.training.caption_examples import draw_caption_sheet

MPLUG = {
    "model__name": "mplug",
    "model__options__mplug__fusion_depth": 3,
    "model__options__mplug__stride": 2,
    "model__options__mplug__decoder_depth": 2,
}
SOURCE = "synthetic:?examples=12&size=16&captions=2&regions=2&seed=1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return timix_jax.load(save_model(tmp_path_factory.mktemp("runs") / "run", **MPLUG))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (11, 4, 4, 3)).astype(np.uint8)
    return [cv2.resize(x, (16, 16), interpolation=cv2.INTER_CUBIC) for x in small]


def greedy(model, image, prefix):
    """Return the likeliest continuation, each token from a pass over the whole text so far."""
    m, params = model.model, model.params
    tokenizer = model.tokenizer
    pixels = next(model._pixel_batches([image]))
    rows = tokenizer.encode([prefix], model.max_tokens)

    @jax.jit
    def logits(params, tokens):
        features = m.encode_image(params, m.embed_patches(params, pixels))
        text = m.encode_text(params, rows)
        memory = m.image_memory(params, features.tokens)
        fused = m.fuse(params, text.tokens, text.mask, memory)
        read = m.decoder_memory(params, fused, text.mask)
        return m.decoder_logits(params, m.decode(params, tokens, read))[0]

    tokens = np.full((1, model.max_tokens), tokenizer.pad_id, np.int32)
    tokens[0, 0] = tokenizer.cls_id
    written, total = [], 0.0
    while len(written) < model.max_tokens:
        row = np.array(logits(params, tokens)[len(written)], np.float64)
        logp = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        allowed = logp.copy()
        allowed[[i for i in tokenizer.special_ids if i != tokenizer.sep_id]] = -np.inf
        written.append(int(np.argmax(allowed)))
        total += logp[written[-1]]
        if written[-1] == tokenizer.sep_id:
            break
        if len(written) < model.max_tokens:
            tokens[0, len(written)] = written[-1]
    return written, total


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [pytest.param("", marks=pytest.mark.slow), "a red disc"])
def test_equals_greedy_decoding_without_a_cache(model, images, prefix):
    (found,) = model.captions(images[0], prefix, beams=1)
    written, logp = greedy(model, images[0], prefix)
    inside = model.tokenizer.encode([prefix], 12)[0]
    words = inside[1 : 1 + int(np.argmax(inside[1:] == model.tokenizer.sep_id))]
    assert found[0].text == model.tokenizer.decode([*words, *written])
    assert found[0].text.startswith(prefix)
    assert found[0].logp == pytest.approx(logp, abs=1e-4)
    assert found[0].score == found[0].logp


@pytest.mark.slow
def test_several_captions_come_best_first(model, images):
    several = model.captions(images[:3], num=4, beams=5, max_tokens=6)
    for found in several:
        scores = [caption.score for caption in found]
        assert scores == sorted(scores, reverse=True)
        assert len({caption.text for caption in found}) > 1
    best = model.caption(images[:3], beams=5, max_tokens=6)
    assert best == [found[0].text for found in several]


@pytest.mark.slow
def test_order_batches_and_devices_change_nothing(model, images):
    prefixes = ["a", "a red disc", ""] * 3 + ["the", "a blue"]
    together = model.captions(images, prefixes, max_tokens=5)
    mesh = make_mesh(jax.devices()[:1])
    params = jax.device_put(jax.tree.map(np.asarray, model.params), replicated(mesh))
    single = LoadedModel(
        model.model, params, mesh, model.tokenizer, image_size=16, max_tokens=12, batch_size=4
    )
    assert jax.device_count() > 1
    for index, found in enumerate(single.captions(images, prefixes, max_tokens=5)):
        assert found[0].text == together[index][0].text
        assert found[0].score == pytest.approx(together[index][0].score, abs=1e-4)


def evaluator_of(model, **options):
    return build_evaluator(
        "captions",
        EvaluationInputs(
            model.model, open_source(SOURCE), model.tokenizer, model._mesh, 16, 12, 8, 2
        ),
        **options,
    )


@pytest.mark.slow
def test_the_evaluator_scores_these_captions(model, tmp_path):
    evaluator = evaluator_of(model, beams=2, max_tokens=5, prefix="a")
    got = evaluator.run(model.params)
    records = [evaluator.inputs.source[index] for index in range(12)]
    written = model.caption([r.image for r in records], "a", beams=2, max_tokens=5)
    want = score_captions(written, [r.captions for r in records])
    end = "_no_ptb" if want.tokenizer == "no PTB" else ""
    expected = {f"{name}{end}": value for name, value in want.metrics.items()}
    assert got == pytest.approx(expected | {"caption_images": 12})
    text = evaluator.text(got)
    assert text.startswith("captions of 12 images")
    for name in want.absent:
        assert f"{name} absent: " in text
    assert ("no PTB" in text) == bool(end)

    path = tmp_path / "captions.png"
    draw_caption_sheet(path, evaluator, jax.tree.map(np.asarray, model.params), "Captions")
    assert path.stat().st_size > 10_000


def test_what_cannot_be_written_is_refused(model, images, tmp_path):
    for options, match in (
        ({"num": 4}, "num=4: give 1 to 3"),
        ({"max_tokens": 13}, "max_tokens=13: the decoder writes at most 12"),
        ({"beams": 0, "num": 0}, "num=0"),
        ({"length_penalty": "wu"}, "length_penalty='wu'"),
        ({"prefix": ["a"]}, "2 images and 1 prefixes"),
    ):
        with pytest.raises(UserError, match=match):
            model.captions(images[:2], **options)
    with pytest.raises(UserError, match=r"config\.eval\.options\.captions: max_tokens=99"):
        evaluator_of(model, max_tokens=99)
    dual = timix_jax.load(save_model(tmp_path / "dual"))
    with pytest.raises(UserError, match=r"caption\(\) needs a decoder.*DualEncoder lacks"):
        dual.caption(images[0])
    with pytest.raises(UserError, match="evaluator 'captions' needs a decoder"):
        evaluator_of(dual)


def test_no_image_gives_no_caption(model):
    assert model.caption([]) == []


def test_probabilities_add_up(model, images):
    """With a beam for every word, captions of one token and their ends exhaust what is possible."""
    (found,) = model.captions(images[0], num=200, beams=200, max_tokens=1, length_penalty="none")
    special = len(model.tokenizer.special_ids) - 1
    assert len(found) == model.tokenizer.vocab_size - special
    total = float(jnp.sum(jnp.exp(jnp.asarray([caption.logp for caption in found]))))
    assert 0.5 < total <= 1.00001
