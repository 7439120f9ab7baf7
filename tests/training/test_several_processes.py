"""One run on 4 processes, stopped by SIGTERM, then on 1; and on 2 processes: the same as in one, uninterrupted."""

import json
import re
import signal

import numpy as np
import pytest
from process_runs import SMALL, Run, assert_codes, logged_lines
from tiny_run import assert_close_weights, tiny_config, write_config

from timix_jax.data.sources import SOURCES
from timix_jax.training.train import train_and_evaluate

pytestmark = pytest.mark.slow

STEPS = 40
OPTIONS = SMALL | {
    "data__train": ("slow:?examples=48&size=16&captions=2",),
    "eval__every": "20 steps",
    "checkpoint__every": "1000 steps",
    "pictures__examples": 2,
}
# Losses of one run and of another with other devices or processes differ by the order of float32 sums.
RELATIVE = 1e-4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """In this process, on its 8 devices, undisturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "slow", "slow_source:open_slow")  # gone again for the other tests
        train_and_evaluate(tiny_config(STEPS, **OPTIONS), str(workdir))
    return workdir


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_within_rounding(workdir, whole):
    lines, expected = lines_of(workdir), lines_of(whole)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, want in zip(lines, expected, strict=True):
        for name in ("loss", "loss/itc", "loss/mix", "lambda", "window", "lr"):
            if name in want:
                np.testing.assert_allclose(line[name], want[name], rtol=RELATIVE, err_msg=name)
    assert_close_weights(workdir, whole, STEPS, atol=1e-3)


def test_four_processes_then_one(whole, tmp_path):
    recipe = write_config(tmp_path / "recipe.py", steps=STEPS, **OPTIONS)
    recipe.write_text("import slow_source\n" + recipe.read_text())
    workdir = tmp_path / "run"
    slowly = {"READ_MS": "100"}  # 0.4 s a step
    run = Run(recipe, workdir, processes=4, devices=2, environment=slowly)
    run.wait_for(lambda: logged_lines(workdir) > 1)
    run.processes[-1].send_signal(signal.SIGTERM)
    ended = run.wait()
    assert_codes(ended, [0] * 4)
    (stop,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 1 < stop < STEPS
    assert f"SIGTERM: stopped after step {stop}; checkpoint {stop} is saved" in ended[0].out
    assert "8 × cpu (data 8) in 4 processes" in ended[0].out
    assert not any("SIGTERM" in one.out for one in ended[1:])
    assert not (workdir / "results.json").exists()
    assert logged_lines(workdir) >= stop

    (ended,) = Run(recipe, workdir, devices=4).wait()
    assert_codes([ended], [0])
    assert f"resuming at step {stop}" in ended.out
    assert "val " in ended.out
    for picture in ("training_curves.png", "mixing.png"):
        assert (workdir / "pictures" / picture).stat().st_size > 10_000
    assert_same_within_rounding(workdir, whole)


@pytest.mark.parametrize(
    ("tensor", "mesh"), [(1, "data 4"), (2, "data 2, tensor 2")], ids=["two hosts", "tensor"]
)
def test_devices_of_the_processes_in_turn(whole, tmp_path, request, tensor, mesh):
    """A process's rows are not contiguous, on two hosts; with tensor=2 both processes hold all rows."""
    recipe = write_config(tmp_path / "recipe.py", steps=STEPS, **OPTIONS)
    recipe.write_text("import interleaved_mesh\nimport slow_source\n" + recipe.read_text())
    flags = [f"--config.mesh.tensor={tensor}"]
    places = request.getfixturevalue("namespaces") if tensor == 1 else None
    run = Run(recipe, tmp_path / "run", processes=2, devices=2, flags=flags, places=places)
    ended = run.wait()
    assert_codes(ended, [0, 0])
    assert f"({mesh}) in 2 processes" in ended[0].out
    # Gloo's threads write to standard output on their own, into each other's lines.
    own = [line for line in ended[1].out.splitlines() if not re.search("Gloo|peer ranks", line)]
    assert own == [""] * len(own)
    assert all("connecting to the other" in line for line in ended[1].err.splitlines())
    assert_same_within_rounding(tmp_path / "run", whole)
