"""The hooks between two steps, and their order, without a training run."""

import contextlib
import types

import numpy as np
import pytest
from etils import epath
from tiny_run import tiny_config

from timix_jax.errors import UserError
from timix_jax.training import train
from timix_jax.training.build import read_settings
from timix_jax.training.hooks import Moment
from timix_jax.training.hooks.finite_check import FiniteCheck
from timix_jax.training.hooks.leave import Leave

STATE = types.SimpleNamespace(params={})


def moment(step, *, finite=True, total_steps=10):
    metrics = {"finite": np.bool_(finite), "loss": np.float32(step)}
    return Moment(step, total_steps, STATE, metrics, example_ids=np.arange(3) + 100 * step)


@pytest.mark.parametrize(
    ("period", "due"), [(0, [10]), (1, list(range(1, 11))), (4, [4, 8, 10]), (5, [5, 10])]
)
def test_every_period_and_after_the_last_step(period, due):
    assert [step for step in range(1, 11) if moment(step).is_due(period)] == due


def test_the_finite_check_is_one_step_late(tmp_path):
    check = FiniteCheck(epath.Path(tmp_path), last_saved=2)
    check(moment(3))
    check(moment(4, finite=False))
    with pytest.raises(UserError, match=r"not finite at step 4 \(examples 400, 401, 402, .*checkp"):
        check(moment(5))
    assert (tmp_path / "nonfinite-4.json").exists()


def test_a_run_leaves_when_asked_but_not_after_its_last_step():
    leave = Leave(types.SimpleNamespace(reached=lambda step: True))
    moments = [moment(step) for step in (9, 10)]
    for each in moments:
        leave(each)
    assert [each.leaving for each in moments] == [True, False]


class Events(list):
    """Record the calls that the stand-ins for the hooks' collaborators receive, in order."""

    def noted(self, name, result=None):
        return lambda *args, **options: self.append(name) or result

    def hooks(self, folder, *, preempted_at=None):
        run = types.SimpleNamespace(
            settings=read_settings(tiny_config(10)),
            every={"log": 1, "eval": 2, "checkpoint": 2},
            mesh=types.SimpleNamespace(local_devices=[], shape={"data": 1, "fsdp": 1}),
            tokenizer=types.SimpleNamespace(to_json=lambda: "{}"),
            sources=(),
        )
        evaluator = types.SimpleNamespace(run=self.noted("evaluate", {}), text=str)
        reporter = types.SimpleNamespace(
            writer=types.SimpleNamespace(write=lambda *_: None, flush=self.noted("flush")),
            printer=types.SimpleNamespace(line=self.noted("log"), text=lambda _: None),
            chrono=types.SimpleNamespace(read=lambda _: None),
            pause=lambda _: contextlib.nullcontext(),
        )
        return train.make_hooks(
            run,
            reporter,
            evaluators={"val": [evaluator]},
            checkpointer=types.SimpleNamespace(save=self.noted("save")),
            preemption=types.SimpleNamespace(reached=lambda step: step == preempted_at),
            finite_check=FiniteCheck(epath.Path(folder), last_saved=None),
        )


def after_steps(folder, steps, *, preempted_at=None, broken_at=None):
    """The events after each of the first steps of a run."""
    events = Events()
    hooks = events.hooks(folder, preempted_at=preempted_at)
    per_step = []
    for step in steps:
        del events[:]
        with contextlib.suppress(UserError):
            for hook in hooks:
                hook(moment(step, finite=step != broken_at))
        per_step.append(list(events))
    return per_step


def test_saved_before_the_evaluation_of_the_same_step(tmp_path):
    assert after_steps(tmp_path, (1, 2, 3)) == [
        ["log"],
        ["log", "flush", "save", "evaluate"],
        ["log"],
    ]
    # The evaluation after the last step follows the loop.
    assert after_steps(tmp_path, (9, 10)) == [["log"], ["log", "flush", "save"]]


@pytest.mark.parametrize("step", [3, 4])
def test_saved_before_leaving_which_no_evaluation_delays(tmp_path, step):
    events = Events()
    hooks = events.hooks(tmp_path, preempted_at=step)
    at = moment(step)
    for hook in hooks:
        hook(at)
    assert events == ["log", "flush", "save"]
    assert at.leaving


@pytest.mark.parametrize(
    ("step", "written", "evaluated"),
    [
        (0, (), False),  # a new run
        (2, ("step", "loss/itc"), True),
        (2, ("step", "loss/itc", "val/i2t_r1"), False),
        (3, ("step", "loss/itc"), False),  # not due
        (10, ("step", "loss/itc"), False),  # the last step has an evaluation of its own
    ],
)
def test_an_evaluation_that_a_kill_has_prevented_is_done_on_resuming(
    tmp_path, step, written, evaluated
):
    events = Events()
    evaluate = events.hooks(tmp_path)[-1]
    evaluate.reporter.writer.names_at_start = frozenset(written)
    evaluate.resume(moment(step))
    assert events == ["evaluate"] * evaluated


def test_nothing_is_evaluated_or_saved_after_a_step_that_is_not_finite(tmp_path):
    assert after_steps(tmp_path, (1, 2), broken_at=2) == [["log"], ["log"]]
    assert after_steps(tmp_path, (2, 3), broken_at=3, preempted_at=3)[1] == ["log"]
