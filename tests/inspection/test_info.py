"""Counts and sizes against arithmetic by hand."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command_line import ROOT, start
from tiny_run import tiny_config

from timix_jax.inspection import info
from timix_jax.inspection.tables import (
    format_bytes,
    memory_estimate,
    memory_table,
    package_versions,
    parameter_modules,
    parameter_table,
    parameters_by_tower,
    tree_bytes,
    versions_table,
)
from timix_jax.parallel.mesh import batch_sharding, make_mesh
from timix_jax.parallel.sharding import infer_shardings
from timix_jax.training.build import read_settings

PARAMS = {
    "image": {
        "blocks": {"kernel": jnp.zeros((2, 8, 16)), "bias": jnp.zeros((2, 16))},
        "cls": jnp.zeros((1, 1, 8)),
    },
    "log_temperature": jnp.zeros(()),
    "text": {"embed": {"table": jnp.zeros((10, 4), jnp.bfloat16)}},
}


def test_parameters_by_module():
    assert parameter_modules(PARAMS) == [
        ("image/blocks", 288, 1152),
        ("image/cls", 8, 32),
        ("log_temperature", 1, 4),
        ("text/embed", 40, 80),
    ]
    assert parameters_by_tower(PARAMS) == {"image": 296, "log_temperature": 1, "text": 40}
    assert parameter_modules(jax.eval_shape(lambda: PARAMS)) == parameter_modules(PARAMS)


def test_parameter_table():
    assert parameter_table(PARAMS, depth=1).split("\n") == [
        "module           parameters      size",
        "---------------  ----------  --------",
        "image                   296  1.16 KiB",
        "log_temperature           1       4 B",
        "text                     40      80 B",
        "total                   337  1.24 KiB",
    ]


def test_memory_of_one_device():
    params = jax.eval_shape(lambda: PARAMS)
    batch = {"image": np.zeros((8, 4, 4, 3), np.uint8)}
    opt_state = jax.eval_shape(optax.scale_by_adam().init, params)
    estimate = memory_estimate(params=params, opt_state=opt_state, ema_params=None, batch=batch)
    assert estimate == {
        "params": 1268,
        "opt_state": 2 * 1268 + 4,
        "ema_params": 0,
        "batch": 384,
        "gradients": 1268,
        "total": 4 * 1268 + 4 + 384,
    }
    lines = memory_table(estimate).split("\n")
    assert lines[-2].split() == ["total", "5.33", "KiB"]
    assert not any("ema" in line for line in lines)


def test_memory_of_a_sharded_state():
    mesh = make_mesh(data=2, fsdp=4)
    shardings = infer_shardings(PARAMS, mesh, declared={}, small=100)
    # Only the kernel is split: 256 float32 over 4 devices.
    assert tree_bytes(PARAMS, shardings) == 1268 - 1024 + 256
    batch = {"image": jnp.zeros((8, 4, 4, 3), jnp.uint8)}
    estimate = memory_estimate(
        params=PARAMS,
        opt_state=(),
        ema_params=PARAMS,
        batch=batch,
        shardings={
            "params": shardings,
            "ema_params": shardings,
            "batch": {"image": batch_sharding(mesh)},
        },
    )
    assert estimate["batch"] == 48
    assert estimate["total"] == 3 * 500 + 48


def test_versions():
    versions = package_versions(["numpy", "no-such-package-here"])
    assert list(versions) == ["python", "platform", "numpy", "no-such-package-here"]
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert versions["no-such-package-here"] == "not installed"
    assert "not installed" in versions_table(versions)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1 KiB"),
        (1000 * 1024, "0.977 MiB"),
        (150 * 2**20, "150 MiB"),
        (5 * 2**30 // 4, "1.25 GiB"),
        (2**52, "4096 TiB"),
    ],
)
def test_bytes(size, text):
    assert format_bytes(size) == text


@pytest.mark.slow
def test_info_of_the_paper_s_recipe_without_data(tmp_path):
    ended = start(
        f"--config={ROOT}/configs/vitb16_boxes.py",
        "--mode=info",
        "--config.data.tokenizer=vocab.txt",
        "--config.mesh.fsdp=4",
        folder=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    for words in (
        "* optim.ema = 0.995   (default 0.0)",
        "  optim.lr = 0.0001\n",
        "vocabulary  30,522 (assumed, as BERT's: vocabulary vocab.txt does not exist",
        "8 × cpu in 1 process(es)\nmesh: data 2, fsdp 4, tensor 1\nglobal batch 1,024, 128 on each",
        "image/blocks              85,054,464",
        "cut over fsdp",
        "ema params",
        "TFLOP per step",
        "ml_collections",
    ):
        assert words in ended.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.duration=abc", "config.train.duration='abc'"),
        ("optim.warmup=abc", "config.optim.warmup='abc'"),
        ("eval.every=zzz", "config.eval.every='zzz'"),
        ("augment.crop_min=5.0", "config.augment.crop_min=5.0"),
        ("eval.evaluators=('nope',)", "Unknown evaluator 'nope'"),
        ("mix.until=often", "config.mix.until='often'"),
        ("train.duration=0", "config.train.duration='0'"),
        ("optim.lr=-1.0", "config.optim.lr=-1.0"),
        ("optim.end_lr=1.0", "end_lr=1.0"),
        ("data.vocab_size=0", "config.data.vocab_size=0"),
    ],
)
def test_info_refuses_what_training_would(refused, setting, words):
    mixer = "--config.mix.mixer=random_window"
    assert words in refused("--config=tiny.py", "--mode=info", mixer, f"--config.{setting}")


def test_info_refuses_a_training_of_nothing(refused):
    said = refused("--config=tiny.py", "--mode=info", "--config.loss.itc.weight=0")
    assert "every weight is 0" in said


@pytest.mark.slow
def test_info_does_not_take_a_nominal_epoch_for_the_length_of_the_data():
    """A warm-up of more steps than one epoch of the nominal million."""
    config = tiny_config(2, train__duration="1 epochs", optim__warmup="100000 steps")
    assert "FLOP per step" in info.describe(read_settings(config), "x")


@pytest.mark.slow
def test_info_is_printed_by_the_first_process_only(monkeypatch, capsys):
    config = tiny_config(2)
    info.print_info(config, "runs/x")
    assert "== parameters" in capsys.readouterr().out
    monkeypatch.setattr(info.processes, "is_first", lambda: False)
    info.print_info(config, "runs/x")
    assert capsys.readouterr().out == ""
