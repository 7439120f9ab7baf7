"""Accuracy and perplexity of hidden words, against counts by hand."""

import dataclasses

import numpy as np
import pytest
from lookup_fusion import LookupFusion
from lookup_model import GreySource, NumberTokenizer, inputs_of, make_mesh

from timix_jax.errors import UserError
from timix_jax.evaluators import build_evaluator
from timix_jax.evaluators.masked_words import hide_words

MASK = 7


class WithMask(NumberTokenizer):
    mask_id, special_ids = MASK, (0, 1, 2, MASK)


def evaluator(source, mesh, tokenizer=WithMask, **options):
    inputs = dataclasses.replace(inputs_of(source, mesh, 8, LookupFusion()), tokenizer=tokenizer())
    return build_evaluator("masked_words", inputs, **options)


@pytest.mark.parametrize("devices", [1, 8])
def test_every_caption_hides_its_only_word(devices):
    numbers = [[3, 4], [5], [6, 3, 4], [4], [5], [6], [3], [4], [5]]
    words = np.random.default_rng(0).normal(size=(len(numbers), 8)).astype(np.float32)
    tables = np.zeros((9, 6), np.float32)
    params = {"images": tables, "texts": tables, "words": words}
    measured = evaluator(GreySource(numbers), make_mesh(devices))
    got = measured.run(params)
    logp = words - np.log(np.exp(words).sum(axis=1, keepdims=True))
    pairs = [(image, word) for image, said in enumerate(numbers) for word in said]
    nats = -np.mean([logp[pair] for pair in pairs])
    hits = np.mean([words[image].argmax() == word for image, word in pairs])
    assert got == {
        "mlm_accuracy": pytest.approx(hits),
        "mlm_perplexity": pytest.approx(np.exp(nats), rel=1e-5),
    }
    assert "perplexity" in measured.text(got)


def test_which_words_are_hidden():
    rng = np.random.default_rng(0)
    tokens = np.zeros((2000, 12), np.int32)
    tokens[:, 0], tokens[:, 9] = 1, 2
    tokens[:, 1:9] = rng.integers(10, 50, (2000, 8))
    tokens[0, 1:] = 0  # no word at all
    hidden = hide_words(tokens, (0, 1, 2, MASK), MASK, 0.2)
    assert (hidden.tokens[hidden.hidden] == MASK).all()
    np.testing.assert_array_equal(hidden.tokens[~hidden.hidden], tokens[~hidden.hidden])
    assert (tokens[hidden.hidden] >= 10).all()
    assert hidden.hidden[1:].any(axis=1).all()
    assert not hidden.hidden[0].any()
    expected = 0.2 + 0.8**8 / 8  # at least one of eight
    assert hidden.hidden[1:, 1:9].mean() == pytest.approx(expected, abs=0.01)
    again = hide_words(tokens, (0, 1, 2, MASK), MASK, 0.2)
    np.testing.assert_array_equal(again.tokens, hidden.tokens)


def test_what_cannot_work_is_refused():
    class Without(WithMask):
        mask_id = None

    source = GreySource([[3]])
    with pytest.raises(UserError, match=r"hides words behind \[MASK\], which the vocabulary lacks"):
        evaluator(source, make_mesh(1), Without)
    with pytest.raises(UserError, match=r"masked_words.rate=0: a share above 0"):
        evaluator(source, make_mesh(1), rate=0)
