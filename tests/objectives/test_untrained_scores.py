"""A warning for mixing with the scores of an untrained patch predictor."""

import logging

import pytest
from tiny_run import tiny_config

from timix_jax.training import build as experiment


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"loss__pta__weight": 0.0}, True),
        ({"loss__pta__weight": 0.5}, False),
        ({"loss__pta__weight": 0.0, "mix__score": "similarity"}, False),
        pytest.param(
            {"loss__pta__weight": 0.0, "mix__mixer": "random_window"}, False, marks=pytest.mark.slow
        ),
        pytest.param(
            {"loss__pta__weight": 0.0, "mix__mixer": "none"}, False, marks=pytest.mark.slow
        ),
        ({"loss__pta__weight": 0.0, "init_from": "runs/trained"}, False),
    ],
)
def test_untrained_scores_are_named(caplog, fields, warned):
    with caplog.at_level(logging.WARNING, logger="absl"):
        experiment.build(experiment.read_settings(tiny_config(2, **fields)))
    assert any("nothing trains the patch predictor" in line for line in caplog.messages) == warned
