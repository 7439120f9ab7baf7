"""ALBEF from the configuration to the results: trains, evaluates, resumes, starts from a dual encoder, compiles."""

import numpy as np
import pytest
from listed_sources import flat_source
from tiny_model import compiler_settings
from tiny_run import assert_same_run, metrics, tiny_config

import timix_jax
from timix_jax.checkpointing import restore_params
from timix_jax.errors import UserError
from timix_jax.inspection import info
from timix_jax.parallel.paths import path_names
from timix_jax.training.build import read_settings
from timix_jax.training.build.data import check_captions_differ
from timix_jax.training.evaluate import evaluate_checkpoint
from timix_jax.training.hooks.log import Log
from timix_jax.training.train import train_and_evaluate

STEPS = 4
WITH_TENSOR = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2, "mesh__small": 16}
LOSSES = {
    "loss__itc__alpha": 0.4,
    "loss__itm__weight": 1.0,
    "loss__mlm__weight": 0.5,
    "loss__mlm__alpha": 0.4,
    "loss__mlm__alpha_steps": "4 steps",
}


def albef_config(steps=STEPS, **overrides):
    settings = {
        "model__name": "albef",
        "model__options__albef__fusion_depth": 1,
        "model__text__dropout": 0.1,
        "eval__evaluators": ("retrieval", "reranked", "masked_words", "patch_text"),
        "eval__options__reranked__k": 4,
        "eval__every": "2 steps",
    }
    return tiny_config(steps, **settings | LOSSES | overrides)


@pytest.fixture(scope="module", autouse=True)
def cached(tmp_path_factory):
    with compiler_settings():
        yield


@pytest.fixture(scope="module")
def whole(cached, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train_and_evaluate(albef_config(**WITH_TENSOR), str(workdir))


@pytest.mark.slow
def test_trains_with_all_losses_and_evaluates(whole):
    workdir, results = whole
    lines = [line for line in metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        parts = line["loss/itc"] + line["loss/itm"] + 0.5 * line["loss/mlm"]
        parts += line["loss/mix"] + line["loss/pta"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        assert line["itm_negatives"] == 1
    for name in ("itm_i2t_r1", "itm_itc_t2i_r10", "itm_accuracy", "mlm_accuracy", "auc"):
        assert 0 <= results[f"val/{name}"] <= 1
    assert results["val/mlm_perplexity"] > 1
    assert evaluate_checkpoint(albef_config(**WITH_TENSOR), str(workdir)) == pytest.approx(
        results, rel=1e-4
    )
    loaded = timix_jax.load(workdir)
    assert loaded.encode_text(["a red circle"]).shape == (1, 8)


@pytest.mark.slow
def test_stopped_and_resumed_is_uninterrupted(whole, tmp_path, monkeypatch):
    log = Log.__call__

    def stop(self, moment):
        if moment.step == 3:
            raise KeyboardInterrupt
        log(self, moment)

    monkeypatch.setattr(Log, "__call__", stop)
    workdir = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(albef_config(**WITH_TENSOR), str(workdir))
    monkeypatch.setattr(Log, "__call__", log)
    train_and_evaluate(albef_config(**WITH_TENSOR), str(workdir))
    assert_same_run(whole[0], workdir, STEPS)


@pytest.mark.slow
def test_starts_from_a_dual_encoder_and_the_other_way_round(whole, tmp_path, caplog):
    dual = {"eval__sets": ()}
    train_and_evaluate(tiny_config(1, **dual), str(tmp_path / "dual"))
    config = albef_config(1, init_from=str(tmp_path / "dual"), eval__sets=())
    config.data.tokenizer = str(tmp_path / "dual" / "tokenizer.json")
    config.optim.update(lr=1e-12, start_lr=1e-12, end_lr=1e-12, weight_decay=0.0)
    caplog.set_level("INFO", logger="absl")
    train_and_evaluate(config, str(tmp_path / "albef"))
    assert "fresh (2): fusion, heads" in caplog.text
    trained, started = (dict(named_weights(tmp_path / run)) for run in ("dual", "albef"))
    assert trained.keys() < started.keys()
    for name, leaf in trained.items():
        np.testing.assert_allclose(started[name], leaf, atol=1e-6, err_msg=name)

    caplog.clear()
    back = tiny_config(1, init_from=str(tmp_path / "albef"), eval__sets=())
    back.data.tokenizer = str(tmp_path / "albef" / "tokenizer.json")
    train_and_evaluate(back, str(tmp_path / "back"))
    assert "unused (2): fusion, heads" in caplog.text


def named_weights(workdir):
    return path_names(restore_params(workdir))


def test_one_line_says_what_cannot_work(tmp_path):
    for overrides, said in (
        ({"model__name": "dual_encoder"}, "config.loss.itm needs a fusion encoder"),
        (
            {"optim__ema": 0.0, "loss__itc__alpha": 0.0},
            r"config.loss.mlm.alpha=0.4 needs a teacher",
        ),
        ({"model__options__albef__fusion_depth": 0}, r"options.albef: fusion_depth=0: give"),
        ({"model__text__dropout": 1.0}, r"config.model.text.dropout=1.0 is not a share"),
        ({"train__batch_size": 8, "loss__itm__candidates": "device"}, "give at least 16"),
        ({"loss__itm__candidates": "queue"}, r"config.loss.itm.candidates='queue' is unknown"),
        ({"loss__mlm__rate": 2.0}, r"config.loss.mlm.rate=2.0 is not a share"),
    ):
        config = albef_config(**overrides)
        with pytest.raises(UserError, match=said):
            train_and_evaluate(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_captions_must_differ():
    check_captions_differ([flat_source(3), flat_source(3, captions=("a", "b"))])
    with pytest.raises(
        UserError, match=r"config.loss.itm needs wrong captions.* all say 'a picture'"
    ):
        check_captions_differ([flat_source(3)])


def test_info_describes_it():
    text = info.describe(read_settings(albef_config()), "runs/x")
    assert "fusion" in text
    assert "FLOP per step" in text
