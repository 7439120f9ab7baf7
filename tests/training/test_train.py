"""Whole runs: what they write, how they resume after a stop, and what stops them."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_device import on_one_device
from shared_run import WHOLE_STEPS as STEPS
from tiny_run import (
    arrays,
    assert_close_weights,
    assert_same_run,
    copy_run,
    metrics,
    tiny_config,
)

from timix_jax.checkpointing import Checkpointer
from timix_jax.data.tokenizers import Tokenizer, train_tokenizer
from timix_jax.errors import UserError
from timix_jax.pretrained.position_embeddings import interpolate_grid
from timix_jax.training import build as experiment
from timix_jax.training import start
from timix_jax.training.build import plan as plans
from timix_jax.training.hooks.log import Log
from timix_jax.training.loop import Loop
from timix_jax.training.train import train_and_evaluate


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with on_one_device():
        yield


def test_what_a_run_writes(whole_run):
    workdir, results = whole_run
    stored = json.loads((workdir / "results.json").read_text())
    assert stored.keys() == results.keys()
    for name, value in stored.items():
        assert value == pytest.approx(results[name], abs=1e-6)
        assert name.startswith("val/")
        assert 0 <= value <= 1
    for metric in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "mean_recall", "auc", "pointing"):
        assert f"val/{metric}" in stored
    lines = metrics(workdir)
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
    for line in logged:
        total = line["loss/itc"] + line["loss/pta"] + line["loss/mix"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert {"lr", "temperature", "lambda", "gamma", "window", "grad_norm"} <= line.keys()
    assert logged[0]["lr"] == pytest.approx(1e-6)
    assert logged[2]["lr"] == pytest.approx(1e-3)
    evaluated = [line for line in lines if "val/i2t_r1" in line]
    assert [line["step"] for line in evaluated] == [3, STEPS]
    assert {k: v for k, v in evaluated[-1].items() if k != "step"} == stored
    assert [path.name for path in sorted((workdir / "checkpoints").iterdir())] == [
        "00000004",
        "00000006",
    ]
    Tokenizer.from_json((workdir / "tokenizer.json").read_text())


def test_speed_and_memory_are_logged(whole_run):
    workdir, _ = whole_run
    raw = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in raw if "loss" in line]
    run = experiment.build(experiment.read_settings(tiny_config(STEPS)))
    for before, line in itertools.pairwise(logged):
        # The given peak is 1 GFLOP/s on one device; a step has 16 images.
        steps = before["step"], line["step"]
        seconds = (steps[1] - steps[0]) * 16 / line["images_per_s"]
        assert line["mfu"] == pytest.approx(run.training_flops(*steps) / seconds / 1e9)
        assert 0 <= line["data_wait"] <= 1
        assert 0.05 < before["host_memory_peak_gib"] <= line["host_memory_peak_gib"] < 100


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(whole_run, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "again")
    train_and_evaluate(tiny_config(STEPS), str(workdir))
    assert_same_run(workdir, whole_run[0], STEPS)


@pytest.mark.slow
def test_stopped_and_resumed_is_uninterrupted(whole_run, tmp_path, monkeypatch):
    """Stopped within step 5, after checkpoint 4; the tokenizer is the stored one, and processes make the batches."""
    workdir = tmp_path / "stopped"
    log = Log.__call__

    def stop(self, moment):
        if moment.step == 5:
            raise KeyboardInterrupt
        log(self, moment)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(tiny_config(STEPS), str(workdir))
    assert metrics(workdir)[-1]["step"] == 4
    tokenizer = (workdir / "tokenizer.json").read_text()

    def refuse(*args, **options):
        raise AssertionError("a tokenizer was trained again")

    monkeypatch.setattr(experiment.data, "train_tokenizer", refuse)
    train_and_evaluate(tiny_config(STEPS, data__processes=2), str(workdir))
    assert_same_run(workdir, whole_run[0], STEPS)
    assert (workdir / "tokenizer.json").read_text() == tokenizer


@pytest.mark.slow
def test_flipped_byte_in_the_newest_checkpoint(whole_run, tmp_path, monkeypatch):
    workdir = copy_run(whole_run[0], tmp_path / "flipped")
    files = [p for p in (workdir / "checkpoints" / "00000006" / "state").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    steps = []
    run = Loop.run
    monkeypatch.setattr(
        Loop,
        "run",
        lambda self, start: steps.append(start.step) or run(self, start),
    )
    train_and_evaluate(tiny_config(STEPS), str(workdir))
    assert steps == [4]
    assert_same_run(workdir, whole_run[0], STEPS)


@pytest.mark.slow
def test_not_finite_stops_and_keeps_the_last_good_state(whole_run, tmp_path, monkeypatch):
    """The weights turn NaN within step 5: named, nothing saved although a save is due, and it can go on."""
    workdir = tmp_path / "nan"
    make = plans.make_train_step

    def poisoned(*args, **options):
        step = make(*args, **options)

        def run(state, batch):
            bad = jnp.where(state.step == 4, jnp.nan, state.params["log_temperature"])
            params = {**state.params, "log_temperature": bad}
            return step(dataclasses.replace(state, params=params), batch)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(plans, "make_train_step", poisoned)
        with pytest.raises(UserError, match=r"not finite at step 5 .*checkpoint 4 ") as caught:
            train_and_evaluate(tiny_config(STEPS, checkpoint__every="1 steps"), str(workdir))
    assert "\n" not in str(caught.value)
    assert not (workdir / "results.json").exists()
    record = json.loads((workdir / "nonfinite-5.json").read_text())
    assert str(workdir / "nonfinite-5.json") in str(caught.value)
    assert record["step"] == 5
    assert len(record["example_ids"]) == 16
    iterator = experiment.build(experiment.read_settings(tiny_config(STEPS))).train_iterator(4)
    assert record["example_ids"] == next(iterator)["example_id"].tolist()
    iterator.close()
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        assert checkpointer.latest_valid() == 4
    train_and_evaluate(tiny_config(STEPS), str(workdir))
    for a, b in zip(arrays(workdir, STEPS), arrays(whole_run[0], STEPS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # the first steps were another program's


@pytest.mark.slow
def test_weights_of_another_run_on_another_grid(whole_run, tmp_path):
    config = tiny_config(
        1,
        init_from=str(whole_run[0]),
        model__image__size=24,
        data__tokenizer=str(whole_run[0] / "tokenizer.json"),
        eval__sets=(),
    )
    run = experiment.build(experiment.read_settings(config))
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        state, resumed = start.initial_state(run, checkpointer)
    assert not resumed
    assert int(state.step) == 0
    saved = arrays(whole_run[0], STEPS)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    for name, new, old in zip(names, jax.tree.leaves(state.params), saved, strict=True):
        if "image" in name and "pos_embed" in name:
            assert new.shape[1] == 36
            old = interpolate_grid(old, 6)
            assert np.abs(old).max() > 0.01
        np.testing.assert_array_equal(new, old, err_msg=name)
    for a, b in zip(jax.tree.leaves(state.ema_params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    # A whole run too: the state must be one that can be donated.
    train_and_evaluate(config, str(tmp_path / "finer"))
    assert (tmp_path / "finer" / "checkpoints" / "00000001").is_dir()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__image__depth": 3}, r"params.*image/blocks/.*2.*→.*3|image/blocks"),
        (
            {"model__image__width": 20},
            "image/blocks/layers/norm1/bias: float32.2,16. → float32.2,20.",
        ),
        ({"data__vocab_size": 300, "data__tokenizer": "bpe"}, "another tokenizer, of another kind"),
        (
            {"model__act": "gelu_tanh"},
            r'other settings .config.model.act: "gelu" there, "gelu_tanh" now',
        ),
        ({"model__tpp_layer": 1}, r"other settings .config.model.tpp_layer: 0 there, 1 now"),
    ],
    ids=["depth", "width", "tokenizer", "activation", "scored layer"],
)
def test_weights_of_another_model_are_refused(whole_run, tmp_path, overrides, message):
    tokenizer = {"data__tokenizer": str(whole_run[0] / "tokenizer.json")}
    config = tiny_config(1, init_from=str(whole_run[0]), **(tokenizer | overrides))
    with pytest.raises(UserError, match=message):
        train_and_evaluate(config, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_saves_memory_may_change_on_resuming(whole_run, tmp_path):
    """Same numbers up to rounding with other rematerialisation, scan, microbatches and mesh."""
    workdir = copy_run(whole_run[0], tmp_path / "smaller")
    shutil.rmtree(workdir / "checkpoints" / f"{STEPS:08d}")
    (workdir / "results.json").unlink()
    config = tiny_config(
        STEPS,
        **{"train__accumulate": 2, "mesh__data": 4, "mesh__tensor": 2},
        **{"model__remat": "full", "model__scan": True, "eval__sets": ()},
    )
    train_and_evaluate(config, str(workdir))
    for part in ("params", "ema_params"):
        assert_close_weights(workdir, whole_run[0], STEPS, part, atol=1e-5)


@pytest.mark.slow
def test_an_empty_tokenizer_gives_way_to_that_of_the_checkpoint(whole_run, tmp_path, monkeypatch):
    workdir = copy_run(whole_run[0], tmp_path / "lost")
    shutil.rmtree(workdir / "checkpoints" / f"{STEPS:08d}")
    (workdir / "results.json").unlink()
    file = workdir / "tokenizer.json"
    text = file.read_text()
    file.write_text("")
    monkeypatch.setattr(experiment.data, "train_tokenizer", None)
    train_and_evaluate(tiny_config(STEPS), str(workdir))
    assert file.read_text() == text
    assert_same_run(workdir, whole_run[0], STEPS)


@pytest.mark.slow
def test_without_config_json_the_checkpoint_tells_the_configuration(whole_run, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "no_config")
    (workdir / "config.json").unlink()
    (workdir / "tokenizer.json").unlink()
    before = sorted(path.name for path in workdir.iterdir())
    with pytest.raises(
        UserError, match=r"another configuration \(optim\.lr: 0\.001 there, 0\.5 now"
    ):
        train_and_evaluate(tiny_config(STEPS, optim__lr=0.5), str(workdir))
    assert sorted(path.name for path in workdir.iterdir()) == before
    train_and_evaluate(tiny_config(STEPS, log__every="2 steps"), str(workdir))
    assert_same_run(workdir, whole_run[0], STEPS)


def test_another_tokenizer_is_refused(whole_run, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "other_words")
    other = train_tokenizer(["one two", "three"], vocab_size=64).to_json()
    (workdir / "tokenizer.json").write_text(other)
    with pytest.raises(UserError, match=rf"not the tokenizer of checkpoint {STEPS}: delete it"):
        train_and_evaluate(tiny_config(STEPS), str(workdir))


def test_other_data_under_the_same_name_are_refused(whole_run, tmp_path, monkeypatch):
    workdir = copy_run(whole_run[0], tmp_path / "other_data")
    before = (workdir / "results.json").read_text()
    monkeypatch.setattr(start, "describe_sources", lambda _: [{"examples": 599, "digest": ""}])
    message = r"trained on other data \(synthetic:.*: 48 examples there, 599 others now\)"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(tiny_config(STEPS), str(workdir))
    assert (workdir / "results.json").read_text() == before
