"""The pictures at the end of a run take little memory, and an error in them does not fail the run."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny_model import make_params
from tiny_run import tiny_config

from timix_jax.training import build as experiment
from timix_jax.training import pictures as run_pictures


@pytest.fixture(scope="module")
def run_and_params():
    run = experiment.build(
        experiment.read_settings(tiny_config(2, train__batch_size=16, pictures__examples=3))
    )
    model = dataclasses.replace(run.model, layout=None)
    return run, jax.tree.map(np.asarray, make_params(model))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return epath.Path(tmp_path)


@pytest.mark.slow
def test_only_the_rows_that_are_shown_are_mixed(run_and_params, folder, monkeypatch):
    run, params = run_and_params
    batches = []
    draw = run_pictures.draw_mixing_sheet

    def noted(path, **options):
        batches.append(options["batch"])
        return draw(path, **options)

    monkeypatch.setattr(run_pictures, "draw_mixing_sheet", noted)
    run_pictures.draw_run(run, params, folder)
    assert len(run.first_batch()["image"]) == 16
    assert [len(value) for value in batches[0].values()] == [6] * len(batches[0])
    assert "regions" not in batches[0]
    for name in ("mixing.png", "training_curves.png"):
        assert Image.open(folder / "pictures" / name).size[0] > 500


def test_an_error_is_logged_and_the_run_goes_on(run_and_params, folder, monkeypatch, caplog):
    def full(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(run_pictures, "draw_mixing_sheet", full)
    with caplog.at_level(logging.ERROR, logger="absl"):
        run_pictures.draw_run(*run_and_params, folder)
    assert "could not be drawn; all else is complete" in caplog.text
    assert "RESOURCE_EXHAUSTED" in caplog.text
