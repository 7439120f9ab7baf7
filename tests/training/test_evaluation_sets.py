"""Evaluation sets next to the training data."""

import jax
import pytest
from absl import logging
from tiny_model import tiny_model
from tiny_run import tiny_config

from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.parallel.mesh import make_mesh
from timix_jax.training.build import read_settings
from timix_jax.training.build.evaluation import build_evaluators

TRAIN, OTHER = (f"synthetic:?examples=16&size=16&seed={seed}" for seed in (0, 1))


@pytest.mark.parametrize(("evaluated", "warned"), [(TRAIN, True), (OTHER, False)])
def test_a_set_that_is_trained_on_is_named(evaluated, warned, monkeypatch):
    """Public configurations choose their models on the data that they report on."""
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    sets = {"eval__sets": (f"val={evaluated}",), "eval__evaluators": ("retrieval",)}
    settings = read_settings(tiny_config(1, data__train=(TRAIN,), **sets))
    tokenizer = train_tokenizer(["a red disc"], vocab_size=64)
    build_evaluators(settings, tiny_model(), tokenizer, make_mesh(jax.devices()[:1]))
    assert any("is among config.data.train" in line for line in said) is warned
