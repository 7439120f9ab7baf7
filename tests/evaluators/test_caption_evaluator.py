"""The evaluator of captions: which numbers it returns, by which names, and what it says of them."""

import dataclasses
import shutil

import pytest
from listed_sources import ListSource, flat_image
from lookup_model import inputs_of, make_mesh
from test_caption_metrics import CANDIDATES, PUBLISHED, REFERENCES
from tiny_model import tiny_model

from timix_jax.data.records.schema import Record
from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.evaluators import build_evaluator
from timix_jax.evaluators.captions import CaptionEvaluator
from timix_jax.models.mplug import Mplug


@pytest.fixture
def evaluator(monkeypatch):
    """Three images, the second one without references."""
    several = (REFERENCES[0], (" ",), REFERENCES[1])
    source = ListSource([Record(str(i), flat_image(i), r) for i, r in enumerate(several)])
    written = [CANDIDATES[0], "nothing", CANDIDATES[1]]
    monkeypatch.setattr(CaptionEvaluator, "_written", lambda self, params: written)
    tokenizer = train_tokenizer([text for r in REFERENCES for text in r], vocab_size=80)
    model = Mplug(tiny_model(), fusion_depth=1, decoder_depth=1)
    inputs = inputs_of(source, make_mesh(1), model=model)
    return build_evaluator("captions", dataclasses.replace(inputs, tokenizer=tokenizer))


def test_numbers_without_ptb_do_not_have_the_names_of_published_ones(evaluator, monkeypatch):
    """CIDEr-D comes with its number of images, without which it says nothing."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    metrics = evaluator.run({})
    want = {f"{name}_no_ptb": value for name, value in PUBLISHED.items()}
    assert metrics == pytest.approx({**want, "caption_images": 2}, abs=1e-6)
    text = evaluator.text(metrics)
    assert text.startswith("captions of 2 images, no PTB: BLEU-4 0.201")
    assert "PTB absent: " in text
    assert "meteor absent: " in text
