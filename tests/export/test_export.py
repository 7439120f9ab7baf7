"""`python -m timix_jax.export`: other programs compute the same, and everything comes back bit for bit."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tokenizers as hf
from captions import CAPTIONS
from exportable_runs import RUNS, save_run
from exported_towers import read_huggingface, read_open_clip
from numpy_towers import encode_images, encode_texts, unit
from saved_model import save_model
from tiny_model import compiler_settings

import timix_jax
from timix_jax.errors import RunError
from timix_jax.export.__main__ import main
from timix_jax.export.folder import check_same
from timix_jax.export.trained import Trained

READERS = {"open_clip": read_open_clip, "hf": read_huggingface}
FORMATS = {
    "clip": ("open_clip", "hf"),
    "clip_larger": ("open_clip", "hf"),
    "clip_sigmoid": ("open_clip",),
    "bert": ("open_clip",),
    "bert_mean": ("open_clip",),
    "siglip": ("hf", "npz"),
    "siglip_larger": ("hf", "npz"),
    "gap": ("npz",),
}
OTHERS = ("clip_larger", "clip_sigmoid", "bert_mean", "siglip_larger")  # variants of the rest
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if name in OTHERS else [])
    for name, kinds in FORMATS.items()
    for kind in kinds
]


@pytest.fixture(scope="module", autouse=True)
def fast_compiler():
    with compiler_settings():
        yield


class Saved(dict):
    """Name → folder of a run, which is saved when it is first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, name):
        self[name] = save_run(self.folder / name, name)
        return self[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def loaded(runs):
    """Return a function: name of a run → its model, whose compiled programs are shared."""
    return functools.cache(lambda name: timix_jax.load(runs[name], batch_size=8))


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    """Return a function (run, format) → exported folder."""
    folder, done = tmp_path_factory.mktemp("exports"), {}

    def get(name, kind):
        if (name, kind) not in done:
            out = folder / f"{name}_{kind}"
            assert main([str(runs[name]), f"--format={kind}", f"--out={out}"]) == 0
            done[name, kind] = out
        return done[name, kind]

    return get


def pixels(size, count=3):
    return np.random.default_rng(2).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case.values[1] in READERS])
def test_the_architecture_computes_the_same_embeddings(name, kind, loaded, exports):
    """By the written names, shapes and configuration alone, in NumPy."""
    folder = exports(name, kind)
    image, text, config, arrays = READERS[kind](folder)
    model = loaded(name)
    images = pixels(model.image_size)
    half = ((0.5,) * 3, (0.5,) * 3)
    theirs = unit(encode_images(image, images, half)[0])
    np.testing.assert_allclose(model.encode_image(images), theirs, atol=1e-5)
    tokens = model.tokenize(CAPTIONS[:5])
    tokenizer = model.tokenizer
    found = encode_texts(text, tokens, pad=tokenizer.pad_id, end=tokenizer.sep_id)[0]
    np.testing.assert_allclose(model.encode_text(CAPTIONS[:5]), unit(found), atol=1e-5)
    assert np.exp(-float(arrays["logit_scale"].reshape(()))) == pytest.approx(model.temperature)
    if "sigmoid" in str(RUNS[name]):
        assert float(arrays["logit_bias"].reshape(())) == float(model.params["logit_bias"])
    arrays.assert_all_used()
    assert config == json.loads(json.dumps(config))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_everything_comes_back_bit_for_bit(name, kind, loaded, exports):
    ours = loaded(name)
    back = timix_jax.load(exports(name, kind), batch_size=8)
    for one, other in zip(*map(jax.tree.leaves, (ours.params, back.params)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert back.tokenizer == ours.tokenizer
    assert back.predictor_trained == ours.predictor_trained
    photo = pixels(50, 1)[0]  # resized as the run does
    # The layers run in a loop, or one by one.
    np.testing.assert_allclose(back.encode_image(photo), ours.encode_image(photo), atol=1e-6)
    texts = CAPTIONS[:2]
    np.testing.assert_allclose(back.encode_text(texts), ours.encode_text(texts), atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("bert", "open_clip"), ("siglip", "hf")])
def test_without_our_own_file_the_model_is_the_same(name, kind, loaded, exports, tmp_path):
    folder = shutil.copytree(exports(name, kind), tmp_path / "copy")
    (folder / "timix_jax.safetensors").unlink()
    ours, back = loaded(name), timix_jax.load(folder, batch_size=8)
    assert not back.predictor_trained
    images = pixels(ours.image_size)
    np.testing.assert_allclose(back.encode_image(images), ours.encode_image(images), atol=1e-6)


def test_weights_that_another_program_changed_win(exports, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(exports("bert", "open_clip"), tmp_path / "copy")
    file = folder / "open_clip_model.safetensors"
    arrays = load_file(file)
    arrays["visual.positional_embedding"] = arrays["visual.positional_embedding"] + 1
    save_file(arrays, file)
    params = timix_jax.load(folder, batch_size=8).params["image"]
    table = arrays["visual.positional_embedding"]
    np.testing.assert_array_equal(params["pos_embed"][0], table[1:])
    np.testing.assert_array_equal(params["patch_embed"]["bias"], 0)


def test_a_tokenizer_for_others_makes_the_same_ids(loaded, exports):
    model = loaded("bert")
    folder = exports("bert", "open_clip")
    theirs = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = model.tokenize(CAPTIONS)
    for text, row in zip(CAPTIONS, ids, strict=True):
        expected = [int(i) for i in row if i != model.tokenizer.pad_id]
        assert theirs.encode(text).ids[: len(expected) - 1] == expected[:-1]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["pad_token"] == "[PAD]"
    assert (config["cls_token"], config["sep_token"]) == ("[CLS]", "[SEP]")
    assert config["model_max_length"] == model.max_tokens


@pytest.mark.parametrize(
    ("name", "kind", "overrides", "messages"),
    [
        ("bert", "open_clip", {"image__stem": "hierarchical"}, ["image.stem='hierarchical' (its"]),
        ("gap", "open_clip", {}, ["image.pool='gap' (its average of the patches keeps a [CLS]"]),
        ("siglip", "open_clip", {}, ["image.pool='map'", "image.projection='none'"]),
        (
            "bert",
            "open_clip",
            {"text__pre_norm": True},
            ["text.pad_mask=True (its text tower without a causal mask attends to padding"],
        ),
        (
            "clip",
            "open_clip",
            {"text__act": "gelu"},
            ["text.act='gelu' (QuickGELU is set for both"],
        ),
        ("clip", "open_clip", {"image__projection": "biased"}, ["image.projection='biased'"]),
        ("bert", "hf", {}, ["CLIPModel cannot", "text.pre_norm=False", "image.ln_pre=False"]),
        ("clip_sigmoid", "hf", {"text__pool": "eot"}, ["a bias of the logits"]),
        ("gap", "hf", {}, ["image.pool='gap'"]),
        ("clip", "npz", {}, ["image.pool='cls'", "text.causal=True", "image.act='quick_gelu'"]),
        ("siglip", "npz", {"act": "gelu"}, ["image.act='gelu' (its code states the activation)"]),
    ],
)
def test_what_a_format_cannot_express_is_named(
    name, kind, overrides, messages, runs, tmp_path, capsys
):
    changes = {f"model__{field}": value for field, value in overrides.items()}
    run = save_run(tmp_path / "run", name, **changes) if changes else runs[name]
    out = tmp_path / "out"
    assert main([str(run), f"--format={kind}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert "cannot express" in error
    assert error.count("\n") == 1
    for message in messages:
        assert message in error
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


def test_nothing_is_overwritten_or_half_written(runs, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert main([str(runs["clip"]), "--format=hf", f"--out={out}"]) == 2
    assert "exists: choose another folder" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    monkeypatch.setattr("timix_jax.export.folder.check_same", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([str(runs["clip"]), "--format=hf", f"--out={tmp_path / 'other'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_differs_is_noticed(loaded, exports):
    model = loaded("clip")
    folder = exports("clip", "hf")
    trained = Trained.of(model)
    check_same(folder, trained)
    changed = {n: a + (n == "text/norm/bias") for n, a in trained.params.items()}
    with pytest.raises(RunError, match="gives text/norm/bias back with other values"):
        check_same(folder, Trained(trained.settings, changed, trained.tokenizer))
    settings = trained.settings | {"model.text.eps": 1e-3}
    with pytest.raises(RunError, match=r"states model\.text\.eps=2e-05, and the model has 0\.001"):
        check_same(folder, Trained(settings, trained.params, trained.tokenizer))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--format=hf"], "does not exist"),
        (["nowhere", "--format=onnx"], "invalid choice: 'onnx'"),
        (["nowhere", "--format=jax", "--platforms=abacus"], "give some of cpu, cuda"),
        (["gs://bucket/run", "--format=hf"], "give --out=FOLDER"),
        (["nowhere", "--format=hf", "--out=gs://bucket/x"], "must be a local path"),
    ],
)
def test_command_lines_that_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_published_weights_are_converted(tmp_path):
    """From one project's layout to another's, with the pixel normalisation of neither."""
    from published_folders import random_tokens, texts_of, write_folder

    case = write_folder("huggingface_clip", False, tmp_path / "clip")
    out = tmp_path / "open_clip"
    assert main([str(tmp_path / "clip"), "--format=open_clip", f"--out={out}"]) == 0
    one, other = (timix_jax.load(path, batch_size=8) for path in (tmp_path / "clip", out))
    images, texts = pixels(one.image_size), texts_of(random_tokens(case.pad), case.pad)
    np.testing.assert_array_equal(one.encode_image(images), other.encode_image(images))
    np.testing.assert_array_equal(one.encode_text(texts), other.encode_text(texts))
    theirs = unit(encode_images(read_open_clip(out)[0], images, ((0.5,) * 3, (0.5,) * 3))[0])
    np.testing.assert_allclose(one.encode_image(images), theirs, atol=1e-5)


def test_the_average_is_exported_on_request(tmp_path):
    run = save_model(tmp_path / "run")
    assert main([str(run), "--format=open_clip", f"--out={tmp_path / 'a'}", "--weights=ema"]) == 0
    average = timix_jax.load(run, weights="ema", batch_size=8)
    loaded = timix_jax.load(tmp_path / "a", batch_size=8).params
    for one, other in zip(*map(jax.tree.leaves, (average.params, loaded)), strict=True):
        np.testing.assert_array_equal(one, other)
