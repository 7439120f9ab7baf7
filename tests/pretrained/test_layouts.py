"""Every published layout, written with random weights: activations equal those of the architecture in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from bicubic import resized
from published_cases import (
    BIAS,
    CASES,
    SCALE,
    VOCABULARY,
    captions,
    computed,
    empty_params,
    expected,
    model_of,
)
from tiny_model import compiler_settings

from timix_jax.errors import UserError
from timix_jax.pretrained import read_public
from timix_jax.pretrained.layouts import LAYOUTS


@pytest.fixture(scope="module", autouse=True)
def fast_compiler():
    with compiler_settings():
        yield


def load(case, folder, **changes):
    case.write(folder)
    weights = read_public(folder)
    model = model_of(weights.settings, pad=case.pad, **changes)
    return model, *weights.load(empty_params(model))


def test_every_layout_has_a_case():
    assert list(CASES) == [layout.__name__.rpartition(".")[2] for layout in LAYOUTS]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_activations_are_those_of_the_architecture(name, small, tmp_path):
    case = CASES[name](small)
    # A text tower with a pool of its own choice: MiniLM's mean.
    changes = {"text.pool": "mean"} if name == "bert" else {}
    model, params, report = load(case, tmp_path, **changes)
    ours, theirs = computed(case, model, params), expected(case, model.image.image_size)
    for key in theirs:
        a, b = ours[key], theirs[key]
        if key == "hidden":
            real = captions(case.pad) != case.pad
            a, b = a[real], b[real]
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=key)
        assert np.abs(b).max() > 0.1
    if case.both:
        np.testing.assert_allclose(model.temperature(params), np.exp(-SCALE), rtol=1e-6)
    has_bias = "siglip" in name or name == "big_vision"
    assert ("logit_bias" in report.loaded) is has_bias
    if has_bias:
        assert float(params["logit_bias"]) == BIAS


@pytest.mark.parametrize("name", ["open_clip", "huggingface_clip"])
def test_the_wrong_activation_is_seen(name, tmp_path):
    """The comparison above would notice it."""
    case = CASES[name](True)
    case.both = False  # compare the final tokens
    right, params, _ = load(case, tmp_path)
    theirs = expected(case, right.image.image_size)
    wrong = dataclasses.replace(
        right,
        image_variant=right.image_variant._replace(act="gelu"),
        text_variant=right.text_variant._replace(act="gelu"),
    )
    for model, is_right in ((right, True), (wrong, False)):
        ours = computed(case, model, params)
        for key in ("image", "hidden"):
            error = np.abs(ours[key] - theirs[key]).max()
            assert error < 1e-4 if is_right else error > 1e-2


def test_the_report_names_what_is_loaded_fresh_and_unused(tmp_path):
    case = CASES["vision_transformer"](True)
    _, params, report = load(case, tmp_path)
    assert {"image/cls", "image/patch_embed/kernel"} <= set(report.loaded)
    assert "image/projection/kernel" in report.fresh
    assert set(report.unused) == {"opt/target/head/kernel", "opt/target/head/bias"}
    np.testing.assert_array_equal(params["image"]["projection"]["kernel"], 0.5)
    names = [name for name in report.fresh if name.startswith("image/")]
    assert names == ["image/projection/kernel"]
    lines = report.lines()
    assert lines[0].endswith(f"(vision_transformer's ViT): {len(report.loaded)} parameters loaded")
    assert [line.split(" (")[0] for line in lines[1:]] == ["fresh", "unused"]


def test_positions_are_fitted_to_another_grid_and_length(tmp_path):
    case = CASES["open_clip"](True)
    changes = {"image.size": 20, "text.max_tokens": 5}
    _, params, report = load(case, tmp_path, **changes)
    assert report.interpolated == ["image/pos_embed: 3·3 → 5·5"]
    patches = resized(case.image.layers["positions"], 5)
    np.testing.assert_allclose(params["image"]["pos_embed"][0], patches, atol=1e-5)
    table = case.text.layers["positions"]
    np.testing.assert_allclose(params["text"]["pos_embed"][0], table[:5], rtol=1e-6)


def test_rows_for_appended_tokens_are_fresh_and_others_are_refused(tmp_path):
    case = CASES["huggingface_clip"](True)
    case.write(tmp_path)
    weights = read_public(tmp_path)
    model = model_of(weights.settings, vocab_size=VOCABULARY + 2)
    params, report = weights.load(empty_params(model))
    words = params["text"]["word_embed"]["embedding"]
    np.testing.assert_allclose(words[:VOCABULARY], case.text.layers["words"], rtol=1e-6)
    assert 0 < np.abs(words[VOCABULARY:]).max() < 0.2
    assert any("2 rows" in note for note in report.notes)
    for size in (VOCABULARY + 3, VOCABULARY - 1):
        shapes = jax.eval_shape(model_of(weights.settings, vocab_size=size).init, jax.random.key(0))
        with pytest.raises(UserError, match=r"has 40 words, and the tokenizer .*data\.tokenizer"):
            weights.check(shapes)
