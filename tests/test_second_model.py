"""A model of one file and one registry entry: it trains, evaluates, resumes, shards and compiles as any other."""

import ast
import importlib.util
import json
from pathlib import Path

import conv_model
import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import PartitionSpec
from tiny_model import compiler_settings
from tiny_run import arrays, assert_close_weights, assert_same_run, metrics, tiny_config

import timix_jax
from timix_jax.config import default_config
from timix_jax.errors import UserError
from timix_jax.inspection import info
from timix_jax.inspection.compile import compile_step
from timix_jax.models import MODELS, RUN_FIELDS
from timix_jax.models.protocols import ImageTextModel, PatchProjecting
from timix_jax.optim.optimizer import decay_mask
from timix_jax.parallel.paths import path_names
from timix_jax.pretrained import check_init_from, load_params
from timix_jax.training import build as experiment
from timix_jax.training.build import read_settings
from timix_jax.training.evaluate import evaluate_checkpoint
from timix_jax.training.hooks.log import Log
from timix_jax.training.open_run import open_run
from timix_jax.training.train import train_and_evaluate

STEPS = 4
WITH_TENSOR = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2, "mesh__small": 16}


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        compiler_settings(
            jax_compilation_cache_dir=str(tmp_path_factory.mktemp("xla")),
            jax_persistent_cache_min_compile_time_secs=0.0,
        ),
    ):
        patch.setitem(MODELS, "conv", conv_model.ConvModel)
        yield


def conv_config(steps=STEPS, **overrides):
    settings = {
        "model__name": "conv",
        "model__options__conv__kernel": 5,
        "mix__score": "similarity",
        "loss__pta__weight": 0.0,
        "eval__every": "2 steps",
    }
    return tiny_config(steps, **settings | overrides)


@pytest.fixture(scope="module")
def whole(registered, tmp_path_factory):
    """A run on eight devices, with weights split over `fsdp` and `tensor`."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    config = conv_config(**WITH_TENSOR, pictures__examples=2)
    return workdir, train_and_evaluate(config, str(workdir))


def logged(workdir):
    return [line for line in metrics(workdir) if "loss" in line]


def test_options_are_the_fields_of_the_class():
    options = default_config().model.options
    assert options.conv.to_dict() == {"patch": 4, "width": 16, "kernel": 3}
    assert not set(options.conv) & set(RUN_FIELDS)
    model = experiment.build_model(read_settings(conv_config()), vocab_size=50, pad_id=7)
    assert model == conv_model.ConvModel(
        image_size=16, vocab_size=50, pad_id=7, embed_dim=8, kernel=5, dtype=np.dtype("float32")
    )
    assert isinstance(model, ImageTextModel)
    assert isinstance(model, PatchProjecting)


@pytest.mark.slow
def test_trains_with_timix_and_evaluates(whole):
    workdir, results = whole
    lines = logged(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss/itc"] + line["loss/mix"], rel=1e-5)
    assert lines[-1]["gamma"] == 1
    assert lines[-1]["window"] >= 1
    assert np.isfinite(lines[-1]["loss"])
    assert 0 <= results["val/i2t_r1"] <= 1
    assert "val/auc" not in results  # patch_text needs the predictor
    for picture in ("training_curves.png", "mixing.png"):
        assert (workdir / "pictures" / picture).stat().st_size > 10_000


@pytest.mark.slow
def test_a_checkpoint_evaluates_to_the_same_figures(whole):
    workdir, results = whole
    assert evaluate_checkpoint(conv_config(**WITH_TENSOR), str(workdir)) == pytest.approx(results)


@pytest.mark.slow
def test_stopped_and_resumed_is_uninterrupted(whole, tmp_path, monkeypatch):
    log = Log.__call__

    def stop(self, moment):
        if moment.step == 3:
            raise KeyboardInterrupt
        log(self, moment)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(conv_config(**WITH_TENSOR), str(tmp_path))
    assert metrics(tmp_path)[-1]["step"] == 2
    train_and_evaluate(conv_config(**WITH_TENSOR), str(tmp_path))
    assert_same_run(tmp_path, whole[0], STEPS)


@pytest.mark.slow
def test_one_device_gives_the_same_losses(whole, tmp_path, monkeypatch):
    build_layout = experiment.checks.build_layout
    monkeypatch.setattr(
        experiment.checks, "build_layout", lambda config, _: build_layout(config, jax.devices()[:1])
    )
    assert experiment.check_shapes(read_settings(conv_config())).mesh.size == 1
    train_and_evaluate(conv_config(eval__sets=()), str(tmp_path))
    for one, eight in zip(logged(tmp_path), logged(whole[0]), strict=True):
        for name in ("loss", "loss/itc", "loss/mix", "lambda", "window", "grad_norm"):
            np.testing.assert_allclose(one[name], eight[name], rtol=1e-4, err_msg=name)
    assert_close_weights(tmp_path, whole[0], STEPS, atol=1e-4)


@pytest.mark.slow
def test_mixed_images_in_the_place_of_clean_ones(tmp_path):
    config = conv_config(2, mix__placement="replace", mix__score="oracle", eval__sets=())
    train_and_evaluate(config, str(tmp_path))
    for line in logged(tmp_path):
        assert line["loss"] == pytest.approx(line["loss/mix"], rel=1e-6)
        assert "loss/itc" not in line


def test_axes_decide_on_sharding_and_decay():
    config = read_settings(conv_config(**WITH_TENSOR))
    plan = experiment.nominal_plan(config, experiment.check_shapes(config), vocab_size=64)
    shardings = dict(path_names(plan.layout.shardings(plan.abstract_state)))
    expected = {
        "params/image/first": (None, None, None, "tensor"),
        "params/image/second": (None, None, "tensor", "fsdp"),
        "params/text/words": ("fsdp", None),
    }
    for name, spec in expected.items():
        assert shardings[name].spec == PartitionSpec(*spec), name
    params = plan.abstract_state.params
    mask = dict(path_names(decay_mask(params, plan.model.parameter_axes())))
    assert [name for name, decays in mask.items() if not decays] == [
        "image/bias_map",
        "log_temperature",
    ]


def test_info(capsys):
    info.print_info(conv_config(**WITH_TENSOR), "runs/x")
    text = capsys.readouterr().out
    assert "* model.name = 'conv'" in text
    assert "* model.options.conv.kernel = 5   (default 3)" in text
    assert "image/second " in text
    assert "cut over fsdp, tensor" in text
    assert "FLOP per step" in text


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (Linux x86-64 only)"
)
def test_compiles_for_a_tpu():
    config = conv_config(
        mesh__fsdp=2, mesh__tensor=2, mesh__small=16, model__dtype="bfloat16", mix__score="random"
    )
    compiled = compile_step(read_settings(config), "v5e:2x2")
    assert (compiled.devices, compiled.mesh) == (4, {"data": 1, "fsdp": 2, "tensor": 2})
    assert compiled.fits
    assert compiled.collectives


LACKS = {
    "a predictor for the scores": (
        {"mix__score": "tpp"},
        r"config.mix.score='tpp' needs a patch predictor \(patch_logp\), which ConvModel lacks",
    ),
    "a predictor for alignment": (
        {"loss__pta__weight": 1.0},
        r"config.loss.pta needs a patch predictor \(patch_logp\), which ConvModel lacks",
    ),
    "a [CLS] token": (
        {"mix__score": "attention"},
        r"config.mix.score='attention' needs \[CLS\] attention .*, which ConvModel lacks",
    ),
    "patch dropout": (
        {"model__image__patch_dropout": 0.5},
        r"config.model.image.patch_dropout=0.5 needs .*'patch_dropout', which ConvModel lacks: set it to 0.0",
    ),
    "microbatches": (
        {"train__accumulate": 2, "train__batch_size": 32, "mesh__data": 8},
        r"config.train.accumulate=2 needs .*'microbatches', which ConvModel lacks: set it to 1",
    ),
    "a bias": (
        {"contrastive__loss": "sigmoid"},
        r"config.contrastive.loss='sigmoid' needs .*, which ConvModel lacks: set it to 'softmax'",
    ),
    "a fitting grid": (
        {"model__options__conv__patch": 5},
        r"config.model.options.conv: patch=5 does not divide",
    ),
    "a name": (
        {"model__name": "vonc"},
        r"config.model.name='vonc' is unknown; use one of dual_encoder, .*conv",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), LACKS.values(), ids=LACKS)
def test_what_it_lacks_is_refused_by_name(overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_and_evaluate(conv_config(**overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_version_without_the_field_resumes(tmp_path):
    """It had the defaults of the fields that its config.json lacks."""
    config = tiny_config(2)
    flat = read_settings(config).flat
    older = {field: value for field, value in flat.items() if field != "model.name"}
    (tmp_path / "config.json").write_text(json.dumps(older))
    run, _ = open_run(read_settings(config), epath.Path(tmp_path))
    assert run.settings.model.name == "dual_encoder"
    assert json.loads((tmp_path / "config.json").read_text()) == older
    config.model.name = "conv"
    with pytest.raises(UserError, match=r'model.name: "dual_encoder" there, "conv" now'):
        open_run(read_settings(config), epath.Path(tmp_path))


@pytest.mark.slow
def test_weights_without_position_embeddings_initialise_another_run(whole):
    workdir, _ = whole
    run = experiment.build(read_settings(conv_config()))
    config, tokenizer = dict(run.settings.flat), (workdir / "tokenizer.json").read_text()
    check_init_from(workdir, run.abstract_state.params, tokenizer=tokenizer, config=config)
    fresh = jax.jit(run.model.init)(jax.random.key(1))
    loaded = jax.tree.leaves(load_params(workdir, fresh))
    for one, other in zip(loaded, arrays(workdir, STEPS), strict=True):
        np.testing.assert_array_equal(one, other)
    config["model.options.conv.kernel"] = 3
    with pytest.raises(UserError, match=r"model.options.conv.kernel: 5 there, 3 now"):
        check_init_from(workdir, run.abstract_state.params, tokenizer=tokenizer, config=config)


def test_no_other_package_names_a_model_class():
    """Models are known by their protocols outside `models` and the builder."""
    folder = Path(timix_jax.__file__).parent
    allowed = {
        "axes",
        "fusion_protocols",
        "generative_protocols",
        "patch_dropout",
        "pixels",
        "protocols",
    }
    readers = set()
    for path in folder.rglob("*.py"):
        if path.is_relative_to(folder / "models"):
            continue
        tree = ast.parse(path.read_text())
        names = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        inner = {n.split(".")[2] for n in names if n.startswith("timix_jax.models.")}
        concrete = {n for n in inner - allowed if (folder / "models" / f"{n}.py").exists()}
        if concrete:
            readers.add(str(path.relative_to(folder)))
        assert "DualEncoder" not in path.read_text() or concrete, path
    assert readers == {"training/build/model.py"}
