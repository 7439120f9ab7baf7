"""Two runs never train in one working folder at the same time."""

import subprocess
import sys

import pytest
from tiny_run import tiny_config

from timix_jax.distributed import run_lock
from timix_jax.distributed.run_lock import only_run
from timix_jax.errors import UserError
from timix_jax.training.train import train_and_evaluate


def test_second_run_is_refused_until_the_first_ends(tmp_path):
    refused = pytest.raises(UserError, match="another run is training there")
    with only_run(tmp_path), refused, only_run(tmp_path, wait_s=0.3):
        raise AssertionError("both run")
    with only_run(tmp_path, wait_s=0):
        pass


def test_killed_run_releases_the_lock(tmp_path):
    program = (
        f"from timix_jax.distributed.run_lock import only_run; import os, signal\n"
        f"with only_run({str(tmp_path)!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert (tmp_path / run_lock.LOCK_FILE).exists()
    with only_run(tmp_path, wait_s=0):
        pass


def test_waits_for_a_run_that_is_ending(tmp_path):
    program = (
        "from timix_jax.distributed.run_lock import only_run; import time\n"
        f"with only_run({str(tmp_path)!r}): print('held', flush=True); time.sleep(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with only_run(tmp_path, wait_s=30):
            pass


def test_training_takes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_WAIT_S", 0.0)
    workdir = tmp_path / "run"
    workdir.mkdir()
    with only_run(workdir), pytest.raises(UserError, match=f"--workdir={workdir}: another run"):
        train_and_evaluate(tiny_config(2), str(workdir))
    assert not (workdir / "checkpoints").exists()
