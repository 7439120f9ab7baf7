"""`timix_jax.load`: embeddings equal those of the evaluators, in any form and order, and errors name the cause."""

import io
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from saved_model import save_model
from tiny_run import arrays, copy_run, tiny_config

import timix_jax
from timix_jax import checkpointing
from timix_jax.checkpointing import find_checkpoint, restore_params
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError
from timix_jax.evaluators.classification import ClassificationEvaluator
from timix_jax.evaluators.embeddings import Embedder
from timix_jax.training import evaluate

STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("runs") / "run", step=STEPS)


@pytest.fixture(scope="module")
def model(run):
    return timix_jax.load(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of 19 images of different sizes: more than two batches of 8."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for index in range(19):
        pixels = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        pixels = cv2.resize(pixels, (20 + index, 50 - index), interpolation=cv2.INTER_CUBIC)
        paths.append(str(folder / f"{index:02d}.{'jpg' if index % 2 else 'png'}"))
        assert cv2.imwrite(paths[-1], pixels)
    return paths


def eval_inputs(workdir, monkeypatch):
    """Return what `--mode=eval` hands to its evaluators, and its parameters."""
    seen = {}

    def keep(evaluators, params):
        seen.update(evaluators=evaluators, params=params)
        return []

    monkeypatch.setattr(evaluate, "run_evaluators", keep)
    evaluate.evaluate_checkpoint(tiny_config(STEPS), str(workdir))
    return seen["evaluators"]["val"][0].inputs, seen["params"]


def test_embeddings_are_those_of_eval_mode(run, model, monkeypatch, tmp_path):
    inputs, params = eval_inputs(copy_run(run, tmp_path / "copy"), monkeypatch)
    embedder = Embedder(inputs, "test")
    records = [inputs.source[index] for index in range(len(inputs.source))]
    images = model.encode_image([record.image for record in records])
    np.testing.assert_allclose(images, embedder.images(params), atol=1e-6)
    texts, owner = embedder.captions(params, inputs.source)
    captions = [caption for record in records for caption in record.captions]
    assert len(captions) == len(owner) > 2 * model.towers.batch_size
    np.testing.assert_allclose(model.encode_text(captions), texts, atol=1e-6)
    for embeddings in (images, model.encode_text(captions)):
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        assert np.ptp(embeddings, axis=0).max() > 0.02, "a constant would pass"


def test_order_and_batching_change_nothing(model, photos):
    together = model.encode_image(photos)
    assert together.shape == (19, model.embed_dim)
    alone = np.concatenate([model.encode_image(path) for path in photos])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    backwards = model.encode_image(iter(photos[::-1]))
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-6)
    assert model.encode_image([]).shape == (0, model.embed_dim)
    assert model.encode_text([]).shape == (0, model.embed_dim)


def test_every_form_of_an_image(model, photos):
    path = photos[0]  # PNG: all decoders give the same pixels
    with open(path, "rb") as file:
        data = file.read()
    pixels = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    forms = [path, data, Image.open(io.BytesIO(data)), pixels, pixels[..., :]]
    embeddings = model.encode_image(forms)
    for row in embeddings:
        np.testing.assert_allclose(row, embeddings[0], atol=1e-6)
    stacked = model.encode_image(np.stack([pixels, pixels[::-1]]))
    np.testing.assert_allclose(stacked[0], embeddings[0], atol=1e-6)
    assert np.abs(stacked[1] - stacked[0]).max() > 1e-3


def test_similarity_takes_inputs_or_embeddings(model, photos):
    texts = ["a red square", "two discs", "a red square above the sea"]
    images, words = model.encode_image(photos), model.encode_text(texts)
    expected = images.astype(np.float64) @ words.astype(np.float64).T
    for result in (model.similarity(photos, texts), model.similarity(images, words)):
        assert result.shape == (19, 3)
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_classes_are_those_of_the_evaluator(run, model, monkeypatch, tmp_path):
    source = open_source("synthetic:?examples=12&size=16&captions=1&regions=0&seed=2")
    inputs, params = eval_inputs(copy_run(run, tmp_path / "copy"), monkeypatch)
    inputs = type(inputs)(**{**vars(inputs), "source": source})
    templates = ("a photo of a {}.", "{} there")
    evaluator = ClassificationEvaluator(inputs, templates=templates)
    names, label = evaluator._classes
    odds = model.classify([source[i].image for i in range(12)], names, templates)
    assert odds.shape == (12, len(names))
    np.testing.assert_allclose(odds.sum(axis=1), 1, rtol=1e-5)
    top1 = float(np.mean(odds.argmax(axis=1) == label))
    assert top1 == pytest.approx(evaluator.run(params)["top1"])
    # By hand, for the first image.
    prompts = [[t.replace("{}", name.replace("_", " ")) for t in templates] for name in names]
    means = np.stack([model.encode_text(p).astype(np.float64).sum(axis=0) for p in prompts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    tau = np.exp(log_temperature(run))
    logits = means @ model.encode_image(source[0].image)[0] / tau
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(odds[0], expected / expected.sum(), rtol=1e-3)


def log_temperature(run):
    params = restore_params(run)
    (name,) = [key for key in params if "temperature" in key]
    return float(params[name])


def test_the_average_is_loaded_on_request(run, model):
    average = timix_jax.load(run, weights="ema")
    wanted = arrays(run, STEPS, "ema_params")
    for got, want in zip(jax.tree.leaves(average.params), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    assert np.abs(average.encode_text("a square") - model.encode_text("a square")).max() > 1e-6
    step = find_checkpoint(run)
    assert np.array_equal(timix_jax.load(step).encode_text("a"), model.encode_text("a"))


def test_batches_keep_their_shapes(model, photos):
    model.encode_image(photos)
    model.encode_image(photos[:3])
    program = model.towers._image
    before = program._cache_size()
    for count in (1, 2, 5, 9, 17, 18):
        model.encode_image(photos[:count])
    assert program._cache_size() == before <= 2


def test_work_is_spread_over_all_devices(model):
    rows = model.towers.placed(np.zeros((3, 4), np.int32))
    assert len(rows.sharding.device_set) == jax.local_device_count() == 8
    assert rows.addressable_shards[0].data.shape[0] * 8 == len(rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.encode_image([p[0], "missing.jpg"]), r"missing\.jpg: cannot be read"),
        (lambda m, p: m.encode_image([p[0], b"text"]), r"image 1 of the list: .*no supported"),
        (lambda m, p: m.encode_image(np.zeros((5, 5, 3))), r"float64 \(5, 5, 3\): give uint8"),
        (lambda m, p: m.encode_image(np.zeros((5, 5), np.uint8)), r"uint8 \(5, 5\): give uint8"),
        (lambda m, p: m.encode_text(["a", 3]), r"3 is not a text"),
        (lambda m, p: m.classify(p, []), "give a list of names"),
        (lambda m, p: m.classify(p, "dog"), "give a list of names"),
        (lambda m, p: m.classify(p, ["dog"], ["a dog"]), r"give texts with \{\}"),
        (lambda m, p: m.heatmap(p[0], "a", source="oracle"), "needs inputs of the training"),
        (lambda m, p: m.heatmap(p[0], "a", source="gradcam"), "'gradcam' is unknown"),
        (lambda m, p: m.heatmap(p[0], "a", size=(0, 5)), "each at least 1"),
    ],
)
def test_errors_name_the_input(model, photos, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(model, photos)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "none", "does not exist"),
        (lambda f: f, "holds no complete checkpoint"),
        (lambda f: "s3://bucket/run", "give a local path or gs://"),
    ],
)
def test_folders_without_a_model(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        timix_jax.load(make(tmp_path))


def test_weights_that_the_run_does_not_have(run):
    with pytest.raises(UserError, match="use 'params' or 'ema'"):
        timix_jax.load(run, weights="best")


def test_a_model_that_is_not_registered_is_named(run, monkeypatch):
    meta = checkpointing.read_meta(find_checkpoint(run))
    meta["config"]["model.name"] = "bag_of_words"
    monkeypatch.setattr(checkpointing, "read_meta", lambda path: meta)
    with pytest.raises(
        UserError, match=r"checkpoint .* cannot be loaded: .*model\.name='bag_of_words' is unknown"
    ):
        timix_jax.load(run)


def test_importing_the_package_loads_no_jax():
    code = "import sys, timix_jax; print('jax' in sys.modules, callable(timix_jax.load))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True"]
