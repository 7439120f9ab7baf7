"""Abilities that an evaluator's class requires of a model."""

import pytest
from lookup_model import GreySource, LookupModel, inputs_of, make_mesh

from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError
from timix_jax.evaluators import EVALUATORS, build_evaluator
from timix_jax.models.protocols import ImageTextModel


class WithoutPredictor(ImageTextModel):
    """Embeds images and captions, and can say nothing about single patches."""

    grid, embed_dim = 2, 16


@pytest.fixture
def inputs():
    source = GreySource([[0], [1]], [[Region("0", (0, 0, 4, 4))], []])
    return inputs_of(source, make_mesh(1), model=WithoutPredictor())


def test_an_evaluator_without_its_ability_is_left_out(inputs):
    supported = [name for name, kind in EVALUATORS.items() if kind.supports(inputs.model)]
    assert supported == ["retrieval", "patch_scores", "classification"]
    lacking = [name for name, kind in EVALUATORS.items() if not kind.supports(LookupModel())]
    assert lacking == ["reranked", "masked_words", "prefix_words", "captions"]  # fusion, a decoder


def test_a_missing_ability_is_refused_by_name(inputs):
    message = r"evaluator 'patch_text' needs a patch predictor .* WithoutPredictor lacks"
    with pytest.raises(UserError, match=message):
        build_evaluator("patch_text", inputs)
    assert build_evaluator("retrieval", inputs).inputs is inputs
