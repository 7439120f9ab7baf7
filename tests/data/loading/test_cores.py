"""Loader processes where none are asked for by number: one for each core of this process."""

import os
import subprocess
import sys

import pytest
from tiny_run import tiny_config

from timix_jax.config import complete
from timix_jax.data.loading import cores
from timix_jax.errors import UserError
from timix_jax.training import build as experiment


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no core can be taken from a process"
)
def test_cores_are_those_of_the_process():
    program = (
        "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]);"
        "from timix_jax.data.loading.cores import available_cores; print(available_cores())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "800000 100000"}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({}, 4),
    ],
)
def test_limit_of_a_container(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.available_cores(tmp_path) == expected


@pytest.mark.parametrize(("available", "workers"), [(1, 1), (3, 3), (16, 16), (224, 16)])
def test_a_worker_a_core(monkeypatch, available, workers):
    monkeypatch.setattr(cores, "available_cores", lambda: available)
    assert cores.worker_per_core() == workers


@pytest.mark.parametrize(("asked", "started"), [(-1, 3), (0, 0), (1, 1)])
def test_processes_of_an_experiment(monkeypatch, asked, started):
    monkeypatch.setattr(cores, "available_cores", lambda: 3)
    batches = experiment.build(tiny_config(2, data__processes=asked)).train_iterator(0)
    try:
        next(batches)
        running = batches._processes._processes if batches._processes else []
        assert len(running) == started
    finally:
        batches.close()


def test_fewer_than_minus_one():
    with pytest.raises(UserError, match=r"config\.data\.processes=-2: give at least -1"):
        complete(tiny_config(2, data__processes=-2))
