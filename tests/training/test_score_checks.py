"""Scores that do not read the caption are refused before anything is compiled."""

import pytest
from tiny_run import tiny_config

from timix_jax.config import complete
from timix_jax.errors import UserError
from timix_jax.training.build import check_shapes, read_settings


def settings(score: str, pool: str, mixer: str = "timix"):
    return read_settings(
        complete(tiny_config(mix__mixer=mixer, mix__score=score, model__image__pool=pool))
    )


@pytest.mark.parametrize("score", ["similarity", "ema:similarity+centre", "tpp+similarity"])
def test_similarity_of_a_tower_pooled_by_the_mean(score):
    with pytest.raises(UserError, match=r"mix\.score=.*pool='gap'.*use 'single_patch'"):
        check_shapes(settings(score, "gap"))


@pytest.mark.parametrize(
    ("score", "pool", "mixer"),
    [
        ("similarity", "cls", "timix"),
        ("single_patch", "gap", "timix"),
        ("similarity", "gap", "none"),
        ("shuffled:similarity", "gap", "timix"),  # the control may be what it is
    ],
)
def test_what_is_allowed(score, pool, mixer):
    check_shapes(settings(score, pool, mixer))
