"""The default number of loader processes: one per core."""

import pytest
from tiny_run import tiny_config

from timix_jax.config import complete
from timix_jax.data.loading import loader_processes
from timix_jax.errors import UserError
from timix_jax.training import build as experiment


@pytest.mark.parametrize(("available", "processes"), [(1, 1), (3, 3), (16, 16), (224, 16)])
def test_one_process_per_core(monkeypatch, available, processes):
    monkeypatch.setattr(loader_processes, "available_cores", lambda: available)
    assert loader_processes.default_process_count() == processes


@pytest.mark.slow
@pytest.mark.parametrize(("requested", "started"), [(-1, 3), (0, 0), (1, 1)])
def test_configured_number_of_processes_is_started(monkeypatch, requested, started):
    monkeypatch.setattr(loader_processes, "available_cores", lambda: 3)
    batches = experiment.build(
        experiment.read_settings(tiny_config(2, data__processes=requested))
    ).train_iterator(0)
    try:
        next(batches)
        running = batches._processes._processes if batches._processes else []
        assert len(running) == started
    finally:
        batches.close()


def test_process_count_below_minus_one_is_rejected():
    with pytest.raises(UserError, match=r"config\.data\.processes=-2: give at least -1"):
        complete(tiny_config(2, data__processes=-2))
