"""PrefixLM with a teacher, in parts, and captions: the same on a mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from fusion_runs import assert_same_result, fusion_batch, run
from tiny_model import TOKENS, VOCABULARY, make_params, tiny_model

from timix_jax.decoding import Search, write_captions
from timix_jax.models.mplug import Mplug
from timix_jax.objectives import build_objective
from timix_jax.objectives.vocabulary import Vocabulary
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh, put_batch

ROWS = 16
PAD, CLS, SEP, MASK = range(4)
MODEL = Mplug(tiny_model(text_dropout=0.2), fusion_depth=3, stride=2, decoder_depth=2)
VOCAB = Vocabulary(VOCABULARY, PAD, MASK, (PAD, CLS, SEP, MASK), start_id=CLS, end_id=SEP)
PLM = (build_objective("plm", alpha=0.4, empty_prefix=0.3, vocabulary=VOCAB),)
SEARCH = Search(CLS, SEP, PAD, beams=2, max_tokens=TOKENS, banned=(MASK,))


@functools.partial(jax.jit, static_argnums=0)
def written(model, params, batch):
    return write_captions(model, params, batch["image"], batch["tokens"], SEARCH)


@pytest.mark.slow
def test_the_same_on_a_mesh_of_three_axes():
    weights = make_params(MODEL), make_params(MODEL, seed=1)
    reference = run(MODEL, PLM, weights[0], fusion_batch(ROWS), 0, weights[1])
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    layout = Layout(mesh, small=16).with_axes(MODEL.parameter_axes())
    options = {"layout": layout, "remat": "full", "microbatches": 2}
    model = dataclasses.replace(MODEL, dual=dataclasses.replace(MODEL.dual, **options))
    params, teacher = (jax.device_put(w, layout.shardings(w)) for w in weights)
    batch = put_batch(fusion_batch(ROWS), mesh)
    assert_same_result(run(model, PLM, params, batch, 0, teacher), reference)

    found = written(model.for_evaluation(), params, batch)
    want = written(MODEL, weights[0], fusion_batch(ROWS))
    found, want = (jax.tree.map(np.asarray, x) for x in (found, want))
    np.testing.assert_array_equal(found.tokens, want.tokens)
    np.testing.assert_allclose(found.logp, want.logp, rtol=1e-4)
