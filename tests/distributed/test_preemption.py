"""SIGTERM to a single process: it saves, ends without an error, and resumes exactly."""

import os
import signal
import threading

import pytest
from one_device import on_one_device
from process_runs import SMALL
from tiny_run import assert_same_run, metrics, tiny_config

from timix_jax.distributed.preemption import Preemption
from timix_jax.training import train
from timix_jax.training.hooks.log import Log
from timix_jax.training.train import train_and_evaluate

STEPS = 6
OPTIONS = SMALL | {"optim__ema": 0.9, "checkpoint__every": "100 steps"}


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with on_one_device():
        yield


@pytest.mark.slow
def test_a_stopped_run_equals_an_uninterrupted_run(tmp_path, monkeypatch, capsys):
    """Stop after the last step but one; the previous handler is restored."""
    config = tiny_config(STEPS, **OPTIONS)
    train_and_evaluate(config, str(tmp_path / "whole"))
    workdir = tmp_path / "stopped"
    log = Log.__call__
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        stop = STEPS - 1

        def terminate(self, moment):
            log(self, moment)
            if moment.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(Log, "__call__", terminate)
            assert train_and_evaluate(config, str(workdir)) == {}
        said = capsys.readouterr().out
        assert f"SIGTERM: stopped after step {stop}; checkpoint {stop} is saved in" in said
        assert "run the same command again to resume" in said
        assert (workdir / "checkpoints" / f"{stop:08d}").is_dir()
        assert metrics(workdir)[-1]["step"] == stop
        assert not (workdir / "results.json").exists()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [1]
    train_and_evaluate(config, str(workdir))
    assert_same_run(workdir, tmp_path / "whole", STEPS)


def test_reached_only_after_the_signal():
    with Preemption() as preemption:
        assert not any(preemption.reached(step) for step in range(3))
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(3)
    with Preemption() as again:
        assert not again.reached(4)


def test_other_threads_do_not_change_the_handler():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def use():
        with Preemption() as preemption:
            seen.append((signal.getsignal(signal.SIGTERM), preemption.reached(1)))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.fixture
def listening():
    """Listen to SIGINT, which a background job ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_ctrl_c_is_a_request_and_the_second_interrupts(listening):
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # no step is taken yet
        assert not preemption.reached(1)
        signal.raise_signal(signal.SIGINT)
        assert preemption.reached(2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_signal_during_the_last_evaluation_lets_the_run_finish(tmp_path, monkeypatch):
    run_evaluators = train.run_evaluators

    def interrupted(evaluators, params):
        os.kill(os.getpid(), signal.SIGTERM)
        return run_evaluators(evaluators, params)

    monkeypatch.setattr(train, "run_evaluators", interrupted)
    results = train_and_evaluate(tiny_config(1, **OPTIONS), str(tmp_path / "run"))
    assert results
    assert (tmp_path / "run" / "results.json").exists()
    assert (tmp_path / "run" / "checkpoints" / "00000001").is_dir()
