"""Partners within a device: a run resumed on another number of devices warns that its partners differ."""

import logging

import pytest
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.training import build as experiment
from timix_jax.training import start
from timix_jax.training.train import train_and_evaluate

WITHIN = {"mix__options__timix__within_shard": True}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A step on eight shards of the batch."""
    workdir = tmp_path_factory.mktemp("within")
    train_and_evaluate(tiny_config(1, **WITHIN, eval__sets=(), pictures__examples=1), str(workdir))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "warned"), [(1, False), (2, True)])
def test_fewer_shards_are_named(started, caplog, tensor, warned):
    run = experiment.build(experiment.read_settings(tiny_config(1, **WITHIN, mesh__tensor=tensor)))
    with Checkpointer(started / "checkpoints") as checkpointer, caplog.at_level(logging.WARNING):
        _, resumed = start.initial_state(run, checkpointer)
    assert resumed
    said = "mixed within 4 shards of the batch now and were within 8 before"
    assert (said in caplog.text) == warned
