"""Another run's weights in a model with another shared space or another vocabulary."""

import jax
import numpy as np
import pytest
from absl import logging
from bicubic import resized
from captions import CAPTIONS
from exportable_runs import random_params, save_run
from tiny_run import tiny_config

from timix_jax.checkpointing import restore_params
from timix_jax.config import complete, default_config, flatten
from timix_jax.data.tokenizers import Tokenizer, train_tokenizer
from timix_jax.errors import UserError
from timix_jax.parallel.paths import path_names
from timix_jax.pretrained import check_init_from, load_params
from timix_jax.training.build import build_model, read_settings

DEFAULTS = flatten(default_config())


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "old", "bert")


def start(old, tokenizer, part="", **overrides):
    """Return (fresh parameters, loaded ones, lines of the log) of a run that starts from `old`."""
    fields = {"mix__mixer": "none", "optim__ema": 0.0, "model__text__eps": 1e-7}
    config = complete(tiny_config(**fields | overrides))
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    model = build_model(read_settings(config), **ids)
    fresh = jax.tree.map(jax.numpy.asarray, random_params(model, seed=5))
    how = {"tokenizer": tokenizer.to_json(), "config": flatten(config), "part": part}
    shapes = jax.eval_shape(lambda: fresh)
    check_init_from(old, shapes, **how, defaults=DEFAULTS)
    return dict(path_names(fresh)), dict(path_names(load_params(old, fresh, **how)))


def stored(old):
    return dict(path_names(restore_params(old)))


def own_tokenizer(size=200):
    return train_tokenizer(CAPTIONS, vocab_size=size)


def test_projections_to_another_space_start_fresh(old, caplog):
    with caplog.at_level("INFO", logger="absl"):
        logging.set_verbosity(logging.INFO)
        fresh, loaded = start(old, own_tokenizer(), model__embed_dim=12)
    saved, projections = stored(old), {"image/projection/kernel", "text/projection/kernel"}
    for name, value in loaded.items():
        expected = fresh[name] if name in projections else saved[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)
    assert "fresh (2): image/projection/kernel, text/projection/kernel" in caplog.text


def test_words_are_mapped_by_their_text(old, caplog):
    other = train_tokenizer([*CAPTIONS, "a zebra quietly zigzags"], vocab_size=130)
    mine = own_tokenizer()
    assert other.vocab_size != mine.vocab_size
    with caplog.at_level("INFO", logger="absl"):
        _, loaded = start(old, other)
    saved, name = stored(old), "text/word_embed/embedding"
    words, table = mine.vocabulary(), loaded[name]
    kept = 0
    for text, index in other.vocabulary().items():
        if text in words:
            np.testing.assert_array_equal(table[index], saved[name][words[text]], err_msg=text)
            kept += 1
        else:
            assert not (np.asarray(table[index]) == saved[name]).all(axis=1).any()
    moved = [t for t, i in other.vocabulary().items() if words.get(t, i) != i]
    assert moved, "the same ids would pass"
    assert other.vocabulary()["[sep]"] == other.sep_id
    assert 0.3 < kept / other.vocab_size < 1
    assert f"{kept:,} of {other.vocab_size:,} words ({kept / other.vocab_size:.0%})" in caplog.text
    for path, value in loaded.items():
        if path != name:
            np.testing.assert_array_equal(value, saved[path], err_msg=path)


def test_positions_are_interpolated_to_another_grid(old):
    """Public code assigns them to an attribute that nothing reads."""
    _, loaded = start(old, own_tokenizer(), model__image__size=24)
    table = resized(stored(old)["image/pos_embed"][0], 6)
    assert np.abs(table).max() > 0.1
    np.testing.assert_allclose(loaded["image/pos_embed"][0], table, atol=1e-5)


def test_an_image_tower_alone_needs_no_words(old):
    other = train_tokenizer(["x y z"], vocab_size=70)
    _, loaded = start(old, other, part="image", model__embed_dim=12)
    np.testing.assert_array_equal(loaded["image/cls"], stored(old)["image/cls"])


def test_words_of_another_kind_are_refused(old):
    other = train_tokenizer(CAPTIONS, kind="bpe", vocab_size=300)
    with pytest.raises(UserError, match="another tokenizer, of another kind"):
        start(old, other)
    cleaned = Tokenizer.from_json(own_tokenizer().to_json(), clean="canonical")
    with pytest.raises(UserError, match="of another kind"):
        start(old, cleaned)
