"""Training of vocabularies: determinism, size, case."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from captions import CAPTIONS

from timix_jax.data.tokenizers import train_tokenizer


def test_wordpiece_ignores_case_and_bpe_keeps_it():
    wordpiece = train_tokenizer(CAPTIONS, kind="wordpiece", vocab_size=400)
    np.testing.assert_array_equal(
        wordpiece.encode(["RED Sea"], 9), wordpiece.encode(["red sea"], 9)
    )
    bpe = train_tokenizer(CAPTIONS, kind="bpe", vocab_size=400)
    assert bpe.decode(bpe.encode(["Green 雪"], 20)[0]) == "Green 雪"


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_depends_only_on_the_captions(kind):
    """Train in several processes, whose hash seeds once changed the ids of WordPiece's inner letters."""
    program = (
        "import json, sys; from timix_jax.data.tokenizers import train_tokenizer;"
        "print(train_tokenizer(json.load(sys.stdin), kind=sys.argv[1], vocab_size=300).to_json())"
    )
    shuffled = CAPTIONS.copy()
    random.Random(3).shuffle(shuffled)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, kind],
            input=json.dumps(captions),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for captions in (CAPTIONS, CAPTIONS, shuffled)
    }
    assert len(outputs) == 1


def test_vocabulary_has_the_requested_size():
    text = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    assert train_tokenizer(text, vocab_size=100).vocab_size == 100
    assert train_tokenizer(text, kind="bpe", vocab_size=300).vocab_size == 300
