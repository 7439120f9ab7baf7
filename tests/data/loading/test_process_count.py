"""The number of loader processes where the configuration leaves it open: one per core."""

import pytest
from tiny_run import tiny_config

from timix_jax.config import complete
from timix_jax.data.loading import loader_processes
from timix_jax.errors import UserError
from timix_jax.training import build as experiment


@pytest.mark.parametrize(("available", "workers"), [(1, 1), (3, 3), (16, 16), (224, 16)])
def test_a_worker_a_core(monkeypatch, available, workers):
    monkeypatch.setattr(loader_processes, "available_cores", lambda: available)
    assert loader_processes.default_process_count() == workers


@pytest.mark.parametrize(("asked", "started"), [(-1, 3), (0, 0), (1, 1)])
def test_processes_of_an_experiment(monkeypatch, asked, started):
    monkeypatch.setattr(loader_processes, "available_cores", lambda: 3)
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
