"""Loader processes where none are asked for by number: one for each core of this process."""

import os
import subprocess
import sys

import pytest
from tiny_run import tiny_config

from timix_jax import experiment
from timix_jax.config import complete
from timix_jax.data import cores
from timix_jax.errors import UserError


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no core can be taken from a process"
)
def test_cores_are_those_of_the_process():
    program = (
        "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]);"
        "from timix_jax.data.cores import available_cores; print(available_cores())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == ["1"]


@pytest.mark.parametrize(("available", "workers"), [(1, 1), (3, 3), (16, 16), (224, 16)])
def test_a_worker_a_core(monkeypatch, available, workers):
    monkeypatch.setattr(cores, "available_cores", lambda: available)
    assert cores.worker_per_core() == workers


@pytest.mark.parametrize(("asked", "started"), [(-1, 3), (0, 0), (1, 1)])
def test_processes_of_an_experiment(monkeypatch, asked, started):
    monkeypatch.setattr(cores, "available_cores", lambda: 3)
    batches = experiment.build(tiny_config(2, data__processes=asked)).train_iterator(0)
    try:
        running = batches._processes._processes if batches._processes else []
        assert len(running) == started
    finally:
        batches.close()


def test_fewer_than_minus_one():
    with pytest.raises(UserError, match=r"config\.data\.processes=-2: give at least -1"):
        complete(tiny_config(2, data__processes=-2))
