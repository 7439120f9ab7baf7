"""Heat maps: their source, their values against a plain computation, and their size."""

import jax
import numpy as np
import pytest
from tiny_model import TOKENS, make_batch, make_params, tiny_model
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, pre_tokenizers

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.inference import LoadedModel
from timix_jax.inference.heatmaps import default_source, reference_texts, resized
from timix_jax.parallel.mesh import make_mesh, replicated

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "two", "photo", "a", "of", "person"]


def loaded(**options):
    model = tiny_model()
    mesh = make_mesh()
    params = jax.device_put(make_params(model), replicated(mesh))
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = HfTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = LoadedModel(
        model,
        params,
        mesh,
        Tokenizer(tokenizer),
        image_size=16,
        max_tokens=TOKENS,
        batch_size=8,
        **options,
    )
    return found, model, params


IMAGES = make_batch(batch=3)["image"]


def z_score(values):
    return (values - values.mean()) / values.std(ddof=1)


def test_single_patches_are_compared_with_the_centred_text():
    found, model, params = loaded()
    with jax.default_matmul_precision("highest"):
        patches = model.encode_single_patches(params, model.embed_patches(params, IMAGES[:1]))[0]
    text = found.encode_text("two dog")[0] - found.encode_text(reference_texts()).mean(axis=0)
    # Means over neighbourhoods, in which a neighbour counts 0.6 (see `SinglePatch`).
    line = np.eye(4) + 0.6 * (np.eye(4, k=1) + np.eye(4, k=-1))
    line /= line.sum(axis=1, keepdims=True)
    similarity = (np.asarray(patches, np.float64) @ text).reshape(4, 4)
    expected = z_score(line @ similarity @ line.T)
    got = found.heatmap(IMAGES[0], "two dog")
    assert got.shape == (4, 4)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert np.abs(got - found.heatmap(IMAGES[0], "a photo")).max() > 0.1


@pytest.mark.slow
def test_the_predictor_is_read_on_request():
    found, model, params = loaded(predictor_trained=True)
    patches = model.embed_patches(params, IMAGES[:1])
    site = model.patch_tokens(model.encode_blocks(params, patches, (1,))[1])
    text = model.encode_text(params, found.tokenize("a dog"))
    logp = model.patch_logp(params, site, text.cls)[0, :, 1]
    expected = z_score(np.asarray(logp, np.float64)).reshape(4, 4)
    got = found.heatmap(IMAGES[0], "a dog", source="tpp")
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert np.abs(found.heatmap(IMAGES[0], "a dog") - got).max() > 0.1


def test_pairs_are_scored_as_each_alone():
    found, _, _ = loaded()
    texts = ["a dog", "two person", "of"]
    together = found.heatmaps(list(IMAGES), texts)
    alone = [found.heatmap(image, text) for image, text in zip(IMAGES, texts, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-4)
    with pytest.raises(UserError, match="3 images and 1 texts"):
        found.heatmaps(list(IMAGES), ["a"])


def test_resizing_keeps_places_and_values():
    scores = np.arange(16, dtype=np.float32).reshape(4, 4)
    large = resized(scores, (12, 20))
    assert large.shape == (12, 20)
    np.testing.assert_allclose(large[1::3, 2::5], scores)  # centres of the patches
    found, _, _ = loaded()
    assert found.heatmap(IMAGES[0], "a dog", size=(30, 50)).shape == (30, 50)


def test_the_best_source_of_a_model():
    class Plain:
        pass

    class Projects:
        def project_patches(self, params, patches):
            return patches

    class Predicts:
        tpp_layer = depth = 1
        encode_blocks = patch_tokens = patch_logp = lambda self, *arguments: None

    assert default_source(tiny_model(), predictor_trained=True) == "single_patch"
    assert default_source(Predicts(), predictor_trained=True) == "tpp"
    assert default_source(Projects(), predictor_trained=True) == "similarity"
    with pytest.raises(UserError, match="Plain has no scores of patches"):
        default_source(Plain(), predictor_trained=False)
