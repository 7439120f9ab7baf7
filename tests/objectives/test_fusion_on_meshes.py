"""Contrastive loss, matching and masked words together: the same on any mesh, by any method, in any parts."""

import dataclasses

import jax
import numpy as np
import pytest
from fusion_runs import VOCAB, assert_same_result, fusion_batch, run, tiny_albef
from tiny_model import make_forward, make_params

from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.image_text_matching import ImageTextMatching
from timix_jax.objectives.masked_words import MaskedLanguage
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh, put_batch

ROWS = 16
MODEL = tiny_albef(depth=2, text_dropout=0.2)


def objectives(reduction=None, candidates="global"):
    pairs = PairLoss(reduction=reduction or PairReduction())
    return (
        Contrastive(alpha=0.4, pairs=pairs),
        ImageTextMatching(candidates=candidates, pairs=pairs),
        MaskedLanguage(rate=0.5, most=0.5, alpha=0.4, vocabulary=VOCAB),
    )


@pytest.fixture(scope="module")
def weights():
    return make_params(MODEL), make_params(MODEL, seed=1)


@pytest.fixture(scope="module")
def reference(weights):
    return run(MODEL, objectives(), weights[0], fusion_batch(ROWS), 0, weights[1])


def on_mesh(weights, shape, method, **options):
    mesh = make_mesh(**shape)
    layout = Layout(mesh, small=16).with_axes(MODEL.parameter_axes())
    dual = dataclasses.replace(MODEL.dual, layout=layout, **options)
    placed = [jax.device_put(w, layout.shardings(w)) for w in weights]
    reduction = PairReduction(method, chunk=4, mesh=mesh)
    batch = put_batch(fusion_batch(ROWS), mesh)
    model = dataclasses.replace(MODEL, dual=dual)
    return run(model, objectives(reduction), placed[0], batch, 0, placed[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "method", "options"),
    [
        ({"data": 8}, "ring", {}),
        ({"data": 2, "fsdp": 2, "tensor": 2}, "gather", {"remat": "full", "microbatches": 2}),
    ],
)
def test_values_and_gradients_are_those_of_one_device(weights, reference, shape, method, options):
    assert_same_result(on_mesh(weights, shape, method, **options), reference)


@pytest.mark.slow
def test_negatives_of_the_own_device(weights):
    mesh = make_mesh(data=4, fsdp=2)
    itm = objectives(PairReduction(mesh=mesh), "device")[1]
    for step in range(3):
        batch = fusion_batch(ROWS)
        forward = make_forward(MODEL, (itm,), weights[0], batch, step)
        for drawn in itm._negatives(forward):
            own = np.arange(ROWS)
            assert (np.asarray(drawn.index) // 2 == own // 2).all()
            assert (np.asarray(drawn.index) != own).all()
