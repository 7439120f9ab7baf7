"""`timix_jax.load` of published weights: embeddings of the architecture, and what is missing is named."""

import json

import numpy as np
import pytest
from numpy_towers import encode_images, encode_texts, unit
from PIL import Image
from published_cases import CASES, END, TOKENS, VOCABULARY
from published_folders import random_tokens, texts_of, write_folder, write_tokenizer

import timix_jax
from timix_jax.data.images.decode import decode_image
from timix_jax.data.images.preprocess import Preprocess
from timix_jax.errors import UserError

BOTH = [name for name in CASES if name not in ("bert", "huggingface_vit", "vision_transformer")]


def pictures(size, count=5):
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", BOTH)
def test_embeddings_are_those_of_the_architecture(name, tmp_path):
    case = write_folder(name, False, tmp_path)
    model = timix_jax.load(tmp_path, batch_size=8)
    tokens = random_tokens(case.pad)
    texts = texts_of(tokens, case.pad)
    np.testing.assert_array_equal(model.tokenize(texts), tokens)
    expected = unit(encode_texts(case.text, tokens, pad=case.pad, end=END)[0])
    np.testing.assert_allclose(model.encode_text(texts), expected, atol=2e-5)
    images = pictures(model.image_size)
    expected = unit(encode_images(case.image, images, case.pixels)[0])
    np.testing.assert_allclose(model.encode_image(images), expected, atol=2e-5)
    assert model.temperature == pytest.approx(np.exp(-2.5), rel=1e-5)
    assert model.settings["model.image.pool"] == case.image.pool


def test_a_sentence_encoder_is_a_text_tower(tmp_path):
    case = write_folder("bert", True, tmp_path)
    model = timix_jax.load(tmp_path, batch_size=8)
    tokens = random_tokens(0, TOKENS + 4)
    expected = unit(encode_texts(case.text, tokens, pad=0, end=END)[0])
    np.testing.assert_allclose(model.encode_text(texts_of(tokens, 0)), expected, atol=1e-5)
    for call in (model.encode_image, lambda images: model.heatmap(images[0], "w3")):
        with pytest.raises(UserError, match="holds no image tower"):
            call(pictures(4))
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(UserError, match=r"give settings=\{'model\.text\.pool': 'mean'\}"):
        timix_jax.load(tmp_path)
    first = timix_jax.load(tmp_path, settings={"model.text.pool": "cls"}, batch_size=8)
    hidden = encode_texts(case.text, tokens, pad=0, end=END)[1]
    np.testing.assert_allclose(
        first.encode_text(texts_of(tokens, 0)), unit(hidden[:, 0]), atol=1e-5
    )


def test_a_vit_is_an_image_tower(tmp_path):
    case = CASES["huggingface_vit"](True)
    case.write(tmp_path)
    model = timix_jax.load(tmp_path, batch_size=8)
    images = pictures(model.image_size)
    expected = unit(encode_images(case.image, images, case.pixels)[0])
    np.testing.assert_allclose(model.encode_image(images), expected, atol=1e-5)
    with pytest.raises(UserError, match="holds no text tower"):
        model.encode_text("w3")


def test_settings_complete_what_the_weights_do_not_state(tmp_path):
    case = write_folder("open_clip", True, tmp_path)
    config = (tmp_path / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match=r"states model\.image\.heads: give it"):
        timix_jax.load(tmp_path)
    heads = {"model.image.heads": 2, "model.text.heads": 2}
    with pytest.raises(
        UserError, match=r"set config\.model\.image\.act, config\.model\.image\.eps"
    ):
        timix_jax.load(tmp_path, settings=heads)
    act = {f"model.{t}.act": "quick_gelu" for t in ("image", "text")}
    eps = {f"model.{t}.eps": 1e-5 for t in ("image", "text")}
    with pytest.raises(UserError, match=r"set config\.init_pixels"):
        timix_jax.load(tmp_path, settings=heads | act | eps)
    settings = heads | act | eps | {"init_pixels": "clip"}
    given = timix_jax.load(tmp_path, settings=settings, batch_size=8)
    (tmp_path / "open_clip_config.json").write_text(config)
    stated = timix_jax.load(tmp_path, batch_size=8)
    images = pictures(12)
    np.testing.assert_array_equal(given.encode_image(images), stated.encode_image(images))
    with pytest.raises(UserError, match=r"states model\.image\.act='quick_gelu': leave out 'gelu'"):
        timix_jax.load(tmp_path, settings={"model.image.act": "gelu"})
    larger = timix_jax.load(tmp_path, settings={"model.image.size": 20}, batch_size=8)
    assert larger.encode_image(pictures(20)).shape == (5, 12)
    assert case.image.act == "quick_gelu"


def test_what_a_folder_lacks_is_named(tmp_path):
    write_folder("open_clip", True, tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "words.json")
    with pytest.raises(UserError, match=r"no tokenizer next to it .*give tokenizer='FILE'"):
        timix_jax.load(tmp_path)
    other = timix_jax.load(tmp_path, tokenizer=tmp_path / "words.json")
    assert other.tokenizer.vocab_size == VOCABULARY
    larger = json.loads((tmp_path / "words.json").read_text())
    larger["model"]["vocab"]["one more"] = VOCABULARY
    (tmp_path / "tokenizer.json").write_text(json.dumps(larger))
    with pytest.raises(UserError, match=r"has 40 words, and its tokenizer 41: give tokenizer"):
        timix_jax.load(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="without average"):
        timix_jax.load(tmp_path, weights="ema")


@pytest.mark.parametrize(
    ("height", "width"), [(30, 47), (47, 30), (21, 21), (300, 41), (12, 12), (9, 70)]
)
def test_images_are_resized_and_cut_as_pillow_does(height, width):
    rng = np.random.default_rng(height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    short = min(height, width)
    whole = image.resize((int(12 * width / short), int(12 * height / short)), Image.BICUBIC)
    left, top = round((whole.width - 12) / 2), round((whole.height - 12) / 2)
    expected = np.asarray(whole.crop((left, top, left + 12, top + 12)))
    pixels = np.asarray(image)
    np.testing.assert_array_equal(Preprocess("bicubic", crop=True)(pixels, 12), expected)
    squeezed = np.asarray(image.resize((12, 12), Image.BILINEAR))
    np.testing.assert_array_equal(Preprocess("bilinear")(pixels, 12), squeezed)


def test_the_weights_say_how_images_are_resized(tmp_path):
    write_folder("huggingface_clip", True, tmp_path)
    file = tmp_path / "preprocessor_config.json"
    stated = json.loads(file.read_text())
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 90, 3), np.uint8))
    photo.save(tmp_path / "photo.jpg", quality=90)
    pixels = decode_image((tmp_path / "photo.jpg").read_bytes())
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / "photo.jpg")))
    for fields, kept in (
        ({"size": {"shortest_edge": 12}, "resample": 3}, Preprocess("bicubic", crop=True)),
        ({"size": {"height": 12, "width": 12}, "resample": 2}, Preprocess("bilinear")),
        ({"size": 12}, Preprocess("bicubic")),
        (
            {"size": {"shortest_edge": 24}, "crop_size": {"height": 12}, "do_center_crop": True},
            Preprocess("bicubic", crop=True, zoom=2.0),
        ),
    ):
        file.write_text(json.dumps(stated | fields))
        model = timix_jax.load(tmp_path, batch_size=8)
        assert model.preprocess == kept
        found = model.encode_image(str(tmp_path / "photo.jpg"))
        model.preprocess = Preprocess("bilinear")  # leaves a square of the right size as it is
        np.testing.assert_array_equal(found, model.encode_image([kept(pixels, 12)]))
    file.write_text(json.dumps(stated | {"resample": 1}))
    with pytest.raises(UserError, match=r"states resample=1; known are 2"):
        timix_jax.load(tmp_path)
