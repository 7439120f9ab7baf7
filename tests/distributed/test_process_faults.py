"""Failure of one of two processes: both end, each log has the cause, and nothing saved is lost."""

import json
import signal
import time

import pytest
from places import Places
from process_runs import SMALL, Run, assert_codes
from tiny_run import assert_same_run, write_config

from timix_jax.checkpointing import Checkpointer

pytestmark = pytest.mark.slow

STEPS = 8
TIMEOUTS = ["--heartbeat_timeout=10"]
OPTIONS = SMALL | {
    "data__train": ("slow:?examples=48&size=16&captions=2",),
    "eval__sets": (),
    "mix__mixer": "none",
}


def write_recipe(path, **overrides):
    recipe = write_config(path, steps=STEPS, **(OPTIONS | overrides))
    recipe.write_text("import slow_source\n" + recipe.read_text())
    return recipe


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "recipe.py")


def latest(workdir):
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.latest_valid()


def errors(ended):
    return [[line for line in one.err.splitlines() if line.startswith("error")] for one in ended]


def test_folder_that_is_not_shared(recipe, tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    begin = time.monotonic()
    ended = Run(recipe, folders, processes=2).wait()
    assert_codes(ended, [2, 2])
    said = f"--workdir={folders[0]} is not shared: process 1 does not see in its --workdir={folders[1]}"
    for process, lines in enumerate(errors(ended)):
        assert lines[0].startswith(f"error in process {process}: {said}")
    assert time.monotonic() - begin < 300  # far more than needed, but not a hang
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_processes_with_different_configurations(recipe, tmp_path, mode):
    """Only one of the processes can detect this error."""
    flags = [[f"--mode={mode}"], [f"--mode={mode}", "--config.optim.lr=0.5"]]
    ended = Run(recipe, tmp_path / "run", processes=2, flags=flags).wait()
    assert_codes(ended, [2, 2])
    for lines in errors(ended):
        assert "process 1 was started with another configuration than process 0" in lines[0]
        assert "optim.lr: 0.001 there, 0.5 now" in lines[0]
    assert not (tmp_path / "run").exists()


def test_processes_in_different_modes(recipe, tmp_path):
    flags = [["--mode=train"], ["--mode=info"]]
    ended = Run(recipe, tmp_path / "run", processes=2, devices=1, flags=flags).wait()
    assert_codes(ended, [2, 2])
    for lines in errors(ended):
        assert (
            "process 1 was started with --mode=info, devices=1, --processes=2, process 0 with --mode=train"
            in lines[0]
        )
    assert not (tmp_path / "run").exists()


def test_folder_that_is_a_file_is_a_user_error_on_all_processes(recipe, tmp_path):
    (tmp_path / "run").write_text("")
    ended = Run(recipe, tmp_path / "run", processes=2, devices=1).wait()
    assert_codes(ended, [2, 2])
    for lines in errors(ended):
        assert f"--workdir={tmp_path / 'run'} is a file: choose a folder" in lines[0]


def test_failed_save_on_one_process_ends_both_with_the_cause(recipe, tmp_path):
    """The other process waits in Orbax's barrier, whose time limit is ten minutes."""
    limit = ["bash", "-c", 'ulimit -f 3; exec "$@"', "bash"]  # KiB per file, including the log
    begin = time.monotonic()
    run = Run(
        recipe, tmp_path / "run", processes=2, devices=1, places=Places([[], limit], "127.0.0.1")
    )
    ended = run.wait()
    assert_codes(ended, [1, 1])
    assert time.monotonic() - begin < 300
    (line,) = errors(ended)[0]
    said = f"process 1 has stopped: checkpoint 2 could not be saved to {tmp_path / 'run'}"
    assert line.startswith(f"error in process 0: {said}")
    assert "File too large" in line


def test_sigterm_ends_an_evaluation_at_once(tmp_path):
    sets = ("val=slow:?examples=48&size=16&captions=2&seed=1",)
    recipe = write_recipe(tmp_path / "recipe.py", eval__sets=sets, train__duration="2 steps")
    assert_codes(Run(recipe, tmp_path / "run", processes=2, devices=1).wait(), [0, 0])
    run = Run(
        recipe,
        tmp_path / "run",
        processes=2,
        devices=1,
        flags=["--mode=eval"],
        environment={"READ_MS": "5000"},
    )
    run.wait_for(lambda: "restoring the initial state: " in run.ended()[0].err)
    for process in run.processes:
        process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert_codes(run.wait(), [-signal.SIGTERM, -signal.SIGTERM])
    assert time.monotonic() - begin < 60  # reading takes two minutes


def test_evaluations_that_fail_in_one_process(tmp_path):
    """All skip what only process 1 cannot read, be it first, in the middle or last, and finish the training."""
    damaged = [
        f"bad{index}=slow:?examples=24&size=16&captions=2&seed=1&corrupt={index}"
        for index in (1, 13, 23)
    ]
    recipe = write_recipe(
        tmp_path / "recipe.py",
        eval__sets=(*damaged, "good=slow:?examples=24&size=16&captions=2&seed=1"),
        eval__batch_size=4,
        eval__every="1 steps",
        checkpoint__every="1 steps",
        train__duration="2 steps",
    )
    ended = Run(recipe, tmp_path / "run", processes=2, devices=1).wait()
    assert_codes(ended, [2, 2])
    for lines in errors(ended):
        for index in (1, 13, 23):
            assert f"bad{index}: retrieval failed: " in lines[0]
            assert f"example {index} cannot be evaluated: example-{index}: damaged" in lines[0]
        assert "(2 times)" in lines[0]
    assert latest(tmp_path / "run") == 2
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {name.partition("/")[0] for name in results} == {"good"}


def test_failing_reader_and_killed_process(recipe, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    ended = Run(recipe, whole, processes=2, devices=1).wait()
    assert_codes(ended, [0, 0])

    # The reader of process 1 fails in step 6: 8 examples per step, and all 48 for the tokenizer of process 0.
    environment = [{}, {"READ_FAILS_AFTER": "40"}]
    ended = Run(recipe, workdir, processes=2, devices=1, environment=environment).wait()
    assert_codes(ended, [1, 1])
    cause = (
        "the input pipeline stopped at the batch of step 6: ZeroDivisionError: a bug in the reader"
    )
    assert f"error in process 1: {cause}" in ended[1].err
    assert "slow_source.py" in ended[1].err  # the traceback
    assert f"error in process 0: process 1 has stopped: {cause}" in ended[0].err
    assert latest(workdir) == 4

    slow = {"READ_MS": "50"}
    run = Run(recipe, workdir, processes=2, devices=1, flags=TIMEOUTS, environment=slow)
    run.wait_for(lambda: "taking the first step: " in run.ended()[0].err)
    run.processes[1].kill()
    ended = run.wait()
    assert ended[1].code == -signal.SIGKILL
    assert ended[0].code not in (
        0,
        -signal.SIGKILL,
    )  # by Gloo's broken connection, or by JAX's heartbeats
    assert "Connection" in ended[0].err or "task" in ended[0].err, ended[0].err
    assert latest(workdir) >= 4
    for file in ("config.json", "tokenizer.json"):
        (workdir / file).unlink()  # the checkpoint has both
    ended = Run(recipe, workdir, processes=2, devices=1).wait()
    assert_codes(ended, [0, 0])
    assert_same_run(workdir, whole, STEPS, parts=("params", "opt_state"))


def test_loss_that_is_not_finite(tmp_path):
    recipe = write_recipe(
        tmp_path / "recipe.py",
        optim__lr=1e30,
        optim__warmup="0 steps",
        log__every="100 steps",
        checkpoint__every="1 steps",
    )
    ended = Run(recipe, tmp_path / "run", processes=2, devices=1).wait()
    assert_codes(ended, [2, 2])
    (path,) = (tmp_path / "run").glob("nonfinite-*.json")
    record = json.loads(path.read_text())
    assert len(set(record["example_ids"])) == 16
    ids = ", ".join(map(str, record["example_ids"][:8]))
    assert record["step"] == 1
    for process, lines in enumerate(errors(ended)):
        assert "none yet" in lines[0]
        assert lines[0].startswith(
            f"error in process {process}: the loss or its update is not finite at step"
            f" 1 (examples {ids}, …: all in {path})"
        )
    assert latest(tmp_path / "run") is None
