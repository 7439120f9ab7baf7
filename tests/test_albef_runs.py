"""ALBEF from the configuration to the results: trains, evaluates, starts from a dual encoder.

Resuming is tested with mPLUG, which has the same losses and more.
"""

import json

import numpy as np
import pytest
from listed_sources import flat_source
from tiny_model import compiler_settings
from tiny_run import metrics, tiny_config

import timix_jax
from timix_jax.checkpointing import Checkpointer, restore_params
from timix_jax.errors import UserError
from timix_jax.parallel.paths import path_names
from timix_jax.training.build import build, read_settings
from timix_jax.training.build.data import check_captions_differ
from timix_jax.training.evaluate import evaluate_checkpoint
from timix_jax.training.start import initial_state
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
        "eval__evaluators": ("retrieval", "reranked", "masked_words", "patch_text"),
        "eval__options__reranked__k": 4,
        "eval__every": "4 steps",
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
    raw = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    paces = [line for line in raw if "images_per_s" in line]
    assert len(paces) >= STEPS - 1
    for line in paces:  # of 8 devices, whose peak is 1 GFLOP/s each; a step has 16 images
        assert line["images_per_s_device"] == pytest.approx(line["images_per_s"] / 8)
        done = line["flops_per_step"] * line["images_per_s"] / 16
        assert line["mfu"] == pytest.approx(done / 8e9)
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
    saved = restore_params(workdir / "checkpoints" / f"{STEPS:08d}", part="opt_state")
    counts = {int(leaf) for name, leaf in path_names(saved) if name.endswith("count")}
    assert counts == {STEPS}  # one update per step, of the summed loss
    loaded = timix_jax.load(workdir)
    assert loaded.encode_text(["a red circle"]).shape == (1, 8)


@pytest.mark.slow
def test_starts_from_a_dual_encoder_and_the_other_way_round(whole, whole_run, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    dual, albef = whole_run[0], whole[0]
    started = weights_started_from(dual, albef_config(1), tmp_path)
    assert "fresh (2): fusion, heads" in caplog.text
    trained = dict(path_names(restore_params(dual)))
    assert trained.keys() < started.keys()
    for name, leaf in trained.items():
        np.testing.assert_array_equal(started[name], leaf, err_msg=name)

    started = weights_started_from(albef, tiny_config(1), tmp_path)
    assert "unused (2): fusion, heads" in caplog.text
    trained = dict(path_names(restore_params(albef)))
    for name, leaf in started.items():
        np.testing.assert_array_equal(trained[name], leaf, err_msg=name)


def weights_started_from(run, config, tmp_path):
    config.init_from = str(run)
    config.data.tokenizer = str(run / "tokenizer.json")
    with Checkpointer(tmp_path / "none" / "checkpoints") as checkpointer:
        state, _ = initial_state(build(read_settings(config)), checkpointer)
    return dict(path_names(state.params))


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


def test_matching_knows_which_images_are_the_same():
    batch = build(read_settings(albef_config())).first_batch()
    np.testing.assert_array_equal(batch["image_id"], batch["example_id"])
    assert batch["image_id"].dtype == np.int32


def test_captions_must_differ():
    check_captions_differ([flat_source(3), flat_source(3, captions=("a", "b"))])
    with pytest.raises(
        UserError, match=r"config.loss.itm needs wrong captions.* all say 'a picture'"
    ):
        check_captions_differ([flat_source(3)])
