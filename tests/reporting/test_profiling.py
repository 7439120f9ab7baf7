"""The trace that `--profile` requests: which steps are in it, and which values are refused."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from jax.profiler import ProfileData
from process_runs import SMALL, Run, assert_codes
from tiny_run import write_config

from timix_jax.errors import UserError
from timix_jax.reporting.profiling import StepProfiler, Window, check_window, parse_window


def traced_steps(folder):
    """Return the step numbers marked in the only trace of a folder, and the names of all its events."""
    (file,) = folder.rglob("*.xplane.pb")
    events = [
        event
        for plane in ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
    ]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    return steps, [event.name for event in events]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10", "START:STOP"),
        ("a:b", "START:STOP"),
        ("-1:3", "START:STOP"),
        ("3:3", "before STOP"),
        ("15:10", "before STOP"),
        ("1:2:3", "START:STOP"),
    ],
)
def test_invalid_windows(text, words):
    with pytest.raises(UserError, match=f"--profile={text}.*{words}") as caught:
        parse_window(text)
    assert "\n" not in str(caught.value)


def test_windows(tmp_path):
    assert parse_window("") is None
    assert parse_window("10:15") == Window(10, 15)
    check_window(None, 3, tmp_path)
    check_window(Window(1, 3), 3, tmp_path)
    with pytest.raises(UserError, match=r"--profile=1:4.*after 3 steps"):
        check_window(Window(1, 4), 3, tmp_path)
    (tmp_path / "profile").write_text("")
    with pytest.raises(UserError, match="profile is a file"):
        check_window(Window(1, 3), 3, tmp_path)


@pytest.mark.slow
def test_a_run_traces_just_its_window(tmp_path):
    recipe = write_config(
        tmp_path / "recipe.py", steps=5, **SMALL | {"mix__mixer": "none", "eval__sets": ()}
    )
    ended = Run(recipe, tmp_path / "refused", flags=["--profile=2:6"]).wait()
    assert_codes(ended, [2])
    assert "--profile=2:6" in ended[0].err
    assert not (tmp_path / "refused").exists()
    ended = Run(recipe, tmp_path / "run", flags=["--profile=2:4"]).wait()
    assert_codes(ended, [0])
    # Steps are counted as done: from when two are until four are.
    steps, names = traced_steps(tmp_path / "run" / "profile")
    assert sorted(steps) == [2, 3]
    assert names.count("waiting for data") == 2
    assert "compiling and taking the first step" not in names
    said = ended[0].err.splitlines()
    assert any("trace from step 2 to 4" in s and str(tmp_path / "run/profile") in s for s in said)
    # The phases of a whole run, each in the log.
    for phase in (
        "opening data and tokenizer",
        "making or restoring the initial state",
        "waiting for the first batch",
        "compiling and taking the first step",
        "writing the profile",
        "starting a checkpoint",
        "waiting for the last checkpoint",
    ):
        assert any(f"] {phase}: " in s and " s" in s for s in said), phase
    assert any("the first step: " in s and "(compile cache: " in s for s in said)


def trace_the_rest(folder):
    with StepProfiler(Window(2, 4), folder) as profiler:
        assert profiler.is_due(3)
        profiler.toggle(3)
        assert not profiler.is_due(3)
        assert profiler.is_due(4)
        profiler.toggle(4)
        assert not profiler.is_due(5)


def interrupt_two_traces(folder):
    def interrupted():
        with StepProfiler(Window(1, 9), folder) as profiler:
            profiler.toggle(1)
            raise KeyboardInterrupt

    for _ in range(2):  # a trace that is still running would refuse the second
        with pytest.raises(KeyboardInterrupt):
            interrupted()


@pytest.mark.slow
@pytest.mark.parametrize("trace", [trace_the_rest, interrupt_two_traces])
def test_traces(trace, tmp_path):
    """In a process of its own: a trace can end a process that holds the programs of a thousand tests."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(trace, tmp_path).result()
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_run_that_resumes_behind_the_window_traces_nothing(tmp_path, caplog):
    with StepProfiler(Window(2, 4), tmp_path / "late") as profiler:
        assert profiler.is_due(9)
        profiler.toggle(9)
        assert not profiler.is_due(10)
    assert "--profile=2:4: nothing to trace, the run resumes at step 9" in caplog.text
    assert not (tmp_path / "late").exists()


def test_other_processes_trace_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert not StepProfiler(Window(0, 2), tmp_path).is_due(1)
