"""Exports read by the projects themselves, where they are installed: open_clip and transformers."""

import numpy as np
import pytest
from captions import CAPTIONS
from exportable_runs import save_run
from tiny_model import compiler_settings

import timix_jax
from timix_jax.export.__main__ import main

torch = pytest.importorskip("torch")

TEXTS = [*CAPTIONS[:6], "a", "Green & BLUE skier's boats, 3 of them"]


@pytest.fixture(scope="module", autouse=True)
def fast_compiler():
    with compiler_settings():
        yield


def exported(name, kind, folder, **overrides):
    run = save_run(folder / name, name, **overrides)
    out = folder / f"{name}_{kind}"
    assert main([str(run), f"--format={kind}", f"--out={out}"]) == 0
    return timix_jax.load(run, batch_size=8), out


def images_of(model):
    shape = (4, model.image_size, model.image_size, 3)
    pixels = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    return pixels, torch.tensor(pixels.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)


def assert_unit_close(theirs, ours):
    theirs = theirs.detach().numpy()
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def assert_same_tokens(theirs, model):
    """Up to the padding of a causal text, which nothing sees."""
    ours, theirs = model.tokenize(TEXTS), np.asarray(theirs)
    if not model.settings["model.text.causal"]:
        np.testing.assert_array_equal(theirs, ours)
        return
    for one, other in zip(theirs, ours, strict=True):
        length = int(np.argmax(other == model.tokenizer.sep_id)) + 1
        np.testing.assert_array_equal(one[:length], other[:length])


@pytest.mark.parametrize("name", ["clip", "clip_larger", "clip_sigmoid", "bert", "bert_mean"])
def test_open_clip(name, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    model, folder = exported(name, "open_clip", tmp_path)
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    theirs.eval()
    pixels, images = images_of(model)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert_same_tokens(tokens, model)
    with torch.no_grad():
        assert_unit_close(theirs.encode_image(images), model.encode_image(pixels))
        assert_unit_close(theirs.encode_text(tokens), model.encode_text(TEXTS))
    assert float(theirs.logit_scale.detach().exp()) == pytest.approx(
        1 / model.temperature, rel=1e-5
    )


@pytest.mark.parametrize("name", ["clip", "clip_larger", "siglip", "siglip_larger"])
def test_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, folder = exported(name, "hf", tmp_path)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    pixels, images = images_of(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = model.max_tokens
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length)["input_ids"]
    assert_same_tokens(tokens, model)
    with torch.no_grad():
        vectors = [
            theirs.get_image_features(pixel_values=images),
            theirs.get_text_features(input_ids=torch.tensor(tokens)),
        ]
    vectors = [getattr(v, "pooler_output", v) for v in vectors]
    assert_unit_close(vectors[0], model.encode_image(pixels))
    assert_unit_close(vectors[1], model.encode_text(TEXTS))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    processed = processor(list(pixels), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(processed, images.numpy(), atol=1e-5)
