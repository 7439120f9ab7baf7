"""Plots: the files decode, have a readable size, and show what they were given."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from timix_jax.errors import UserError
from timix_jax.reporting.plots.comparison import comparison_chart
from timix_jax.reporting.plots.curves import read_curves, running_mean, training_curves
from timix_jax.reporting.plots.figures import wrap
from timix_jax.reporting.plots.pictures import mixing_sheet


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int32)


def sheet_inputs(count=2, side=32, grid=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (3, count, side, side, 3)).astype(np.uint8)
    return {
        "images": images[0],
        "partners": images[1],
        "mixed": images[2],
        "scores": rng.normal(size=(count, grid**2)).astype(np.float32),
        "low": np.zeros((count, 2), np.int32),
        "high_partner": np.full((count, 2), grid - 2, np.int32),
        "window": 2,
        "lam": np.full(count, 0.75),
        "captions": ["a lemon for $5 and two skis for $6"] * count,
        "partner_captions": ["flag: Norway and a cat"] * count,
        "title": "TiMix",
    }


def draw(path, **changes):
    mixing_sheet(path, **{**sheet_inputs(), **changes})
    return pixels(path)


def test_sheet_has_one_row_per_example_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "pictures" / "sheet.png"
    two = draw(path)
    assert 1000 < two.shape[1] < 2000
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    three = draw(path, **sheet_inputs(3))
    assert three.shape[1] == two.shape[1]
    assert 250 < three.shape[0] - two.shape[0] < 450


@pytest.mark.parametrize(
    "name", ["images", "partners", "mixed", "scores", "low", "high_partner", "lam", "title"]
)
def test_every_input_shows(tmp_path, name):
    first = draw(tmp_path / "a.png")
    np.testing.assert_array_equal(first, draw(tmp_path / "a.png"))  # else a change proves nothing
    value = sheet_inputs()[name]
    changes = {
        "low": lambda: value + 1,
        "high_partner": lambda: value - 1,
        "lam": lambda: value / 3,
        "title": lambda: "none",
        "scores": lambda: -value,
    }
    other = draw(tmp_path / "b.png", **{name: changes.get(name, lambda: 255 - value)()})
    assert np.any(first != other)


def test_windows_lie_where_they_were_cut(tmp_path):
    # On black images nothing else has the colours of the frames (the headings are darker).
    black = np.zeros((1, 32, 32, 3), np.uint8)
    inputs = {**sheet_inputs(1), "images": black, "partners": black, "mixed": black}
    corners = {}
    for row, col in ((0, 0), (2, 1)):
        place = np.array([[row, col]])
        mixing_sheet(tmp_path / "a.png", **{**inputs, "low": place, "high_partner": place})
        sheet = pixels(tmp_path / "a.png")
        for name, colour in (("low", (0, 181, 255)), ("high", (255, 138, 0))):
            found = np.argwhere(np.abs(sheet - colour).max(-1) < 8)
            corners[name, row] = (*found.min(0), *np.ptp(found, axis=0))
    patch = 2.3 * 120 / 4
    for name in ("low", "high"):
        moved = np.subtract(corners[name, 2], corners[name, 0])
        np.testing.assert_allclose(moved, [2 * patch, patch, 0, 0], atol=2)
        np.testing.assert_allclose(corners[name, 0][2:], 2 * patch, atol=5)
    assert corners["high", 0][1] > corners["low", 0][1] + 200  # in a column further right


def test_wrong_shapes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"lam has shape \(3,\), expected \(2,\)"):
        draw(tmp_path / "a.png", lam=np.ones(3))
    with pytest.raises(ValueError, match=r"scores has shape \(2, 15\)"):
        draw(tmp_path / "a.png", scores=np.ones((2, 15)))
    assert not (tmp_path / "a.png").exists()


def test_long_captions_are_cut():
    text = wrap("word " * 50, 20, 3)
    assert text.count("\n") == 2
    assert text.endswith("…")
    assert max(map(len, text.split("\n"))) <= 20


def test_characters_missing_from_the_font_are_not_an_error(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "a.png", captions=["一只猫"] * 2)


def write_log(path, entries, tail=""):
    path.write_text("".join(json.dumps(e) + "\n" for e in entries) + tail)
    return path


def run_log(recall=0.3):
    for step in range(1, 61):
        yield {
            "step": step,
            "loss": 5 / step,
            "loss/itc": 4 / step,
            "lr": 1e-3,
            "temperature": 0.07,
        }
        if step % 20 == 0:
            yield {"step": step, "val/i2t_r1": recall * step / 60, "val/pointing": 0.4}


def test_curves_are_drawn_and_follow_the_log(tmp_path):
    log = write_log(tmp_path / "metrics.jsonl", run_log())
    training_curves(log, tmp_path / "a.png", "run")
    first = pixels(tmp_path / "a.png")
    assert first.shape[1] > 1000
    write_log(log, run_log(0.1))
    training_curves(log, tmp_path / "b.png", "run")
    assert np.any(first != pixels(tmp_path / "b.png"))


def test_lambda_is_drawn_only_while_mixing(tmp_path):
    """Nothing about mixing is logged after its end: its curve ends, the others continue."""
    after = [{"step": s, "loss": 1.0} for s in range(8)]
    mixing = [{**line, "lambda": 0.5 + line["step"] / 20, "gamma": 1.0} for line in after[:5]]
    log = write_log(tmp_path / "mixed.jsonl", mixing + after[5:])
    curves = read_curves(log)
    assert curves["lambda"].steps.tolist() == list(range(5))
    assert curves["loss"].steps.tolist() == list(range(8))
    training_curves(log, tmp_path / "mixed.png", "run")
    training_curves(write_log(tmp_path / "plain.jsonl", after), tmp_path / "plain.png", "run")
    assert pixels(tmp_path / "mixed.png").shape[1] > pixels(tmp_path / "plain.png").shape[1]


def test_only_what_was_logged_gets_a_panel(tmp_path):
    log = write_log(
        tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    )
    training_curves(log, tmp_path / "a.png", "run")
    assert pixels(tmp_path / "a.png").shape[1] < 700


def test_log_of_a_killed_and_resumed_run(tmp_path):
    entries = [{"step": s, "loss": float(s)} for s in (1, 2, 3)]
    again = [{"step": s, "loss": 10.0 * s, "skipped": None} for s in (2, 3, 4)]
    log = write_log(tmp_path / "metrics.jsonl", entries + again, '{"step": 5, "lo')
    curves = read_curves(log)
    assert set(curves) == {"loss"}
    assert curves["loss"].steps.tolist() == [1, 2, 3, 4]
    assert curves["loss"].values.tolist() == [1, 20, 30, 40]


def test_bad_logs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"No metrics at .*none\.jsonl"):
        training_curves(tmp_path / "none.jsonl", tmp_path / "a.png", "run")
    log = write_log(tmp_path / "metrics.jsonl", [{"loss": 1.0}, {"step": 1, "loss": 1.0}])
    with pytest.raises(UserError, match="line 1 is not a JSON object with a step"):
        read_curves(log)
    write_log(log, [{"step": 1}])
    with pytest.raises(UserError, match="no metric to draw"):
        training_curves(log, tmp_path / "a.png", "run")


def test_running_mean_skips_values_that_are_not_finite():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.inf])
    np.testing.assert_allclose(running_mean(values, 3), [1, 2, 4, 4, 5])


def test_comparison_chart_shows_each_seed(tmp_path):
    table = {"none": {"R@1": [0.04, 0.05], "R@10": [0.2]}, "TiMix": {"R@1": [0.07], "R@10": [0.3]}}
    comparison_chart(tmp_path / "a.png", table, "demo")
    first = pixels(tmp_path / "a.png")
    assert 600 < first.shape[1] < 1500
    table["none"]["R@1"] = [0.02, 0.07]  # the same mean
    comparison_chart(tmp_path / "b.png", table, "demo")
    assert np.any(first != pixels(tmp_path / "b.png"))


@pytest.mark.parametrize(
    "table", [{}, {"a": {}}, {"a": {"x": [1.0]}, "b": {"y": [1.0]}}, {"a": {"x": []}}]
)
def test_incomplete_tables_are_refused(tmp_path, table):
    with pytest.raises(ValueError, match=r"empty|expected"):
        comparison_chart(tmp_path / "a.png", table, "demo")


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "nonsense", "pdf"]
)
def test_any_backend_of_the_environment(tmp_path, backend):
    """Notebooks export the name of theirs to every program that they start."""
    code = """
import os, sys
from timix_jax.reporting.plots.comparison import comparison_chart
comparison_chart(sys.argv[1], {"a": {"m": [0.1]}}, "t")
import matplotlib
print(dict.__getitem__(matplotlib.rcParams, "backend"), os.environ["MPLBACKEND"])
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        env={**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    used, exported = run.stdout.rsplit(" ", 1)
    assert exported.strip() == backend
    if "inline" not in backend:  # which may be installed here
        assert (used == backend) == (backend == "pdf")
    assert pixels(tmp_path / "a.png").any()
