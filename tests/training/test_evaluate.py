"""`--mode=eval`: figures of a stored checkpoint, and settings that are not those of its weights."""

import json
import logging

import jax
import numpy as np
import pytest
from one_device import on_one_device
from shared_run import WHOLE_STEPS as STEPS
from tiny_run import arrays, copy_run, tiny_config

from timix_jax.errors import UserError
from timix_jax.training import evaluate

SMALL = "small=synthetic:?examples=12&size=16&captions=1&seed=2"


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with on_one_device():
        yield


@pytest.mark.slow
def test_eval_mode_reproduces_the_results(whole_run, tmp_path, caplog):
    workdir = copy_run(whole_run[0], tmp_path / "evaluated")
    with caplog.at_level(logging.INFO, logger="absl"):
        evaluate.evaluate_checkpoint(tiny_config(STEPS), str(workdir))
    phases = [line.partition(":")[0] for line in caplog.messages]
    assert [p for p in phases if p in ("opening data and tokenizer", "evaluating")] == [
        "opening data and tokenizer",
        "evaluating",
    ]
    expected = (workdir / "results.json").read_text()
    assert (workdir / f"eval-{STEPS}.json").read_text() == expected
    (workdir / f"eval-{STEPS}.json").unlink()
    step_folder = workdir / "checkpoints" / f"{STEPS:08d}"
    evaluate.evaluate_checkpoint(tiny_config(STEPS), str(step_folder))
    assert (workdir / f"eval-{STEPS}.json").read_text() == expected


@pytest.mark.slow
def test_the_average_is_evaluated_on_request(whole_run, monkeypatch, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "average")
    given = []
    monkeypatch.setattr(
        evaluate, "run_evaluators", lambda evaluators, params: given.append(params) or []
    )
    evaluate.evaluate_checkpoint(tiny_config(STEPS, eval__weights="ema"), str(workdir))
    evaluate.evaluate_checkpoint(tiny_config(STEPS), str(workdir))
    average, plain = map(jax.tree.leaves, given)
    for got, want in zip(average, arrays(workdir, STEPS, "ema_params"), strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(plain, arrays(workdir, STEPS), strict=True):
        np.testing.assert_array_equal(got, want)
    assert any(np.any(a != b) for a, b in zip(average, plain, strict=True))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model__act", "gelu_tanh", r'config\.model\.act: "gelu" there, "gelu_tanh" now'),
        ("model__tpp_layer", 1, r"config\.model\.tpp_layer: 0 there, 1 now"),
    ],
)
def test_weights_are_not_evaluated_as_another_model_of_their_shapes(
    whole_run, tmp_path, field, value, message
):
    workdir = copy_run(whole_run[0], tmp_path / "other")
    with pytest.raises(UserError, match=message):
        evaluate.evaluate_checkpoint(tiny_config(STEPS, **{field: value}), str(workdir))
    assert not (workdir / f"eval-{STEPS}.json").exists()


@pytest.mark.slow
def test_eval_mode_may_compute_differently(whole_run, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "otherwise")
    config = tiny_config(
        STEPS, model__scan=True, model__remat="full", model__image__patch_dropout=0.5, seed=5
    )
    found = evaluate.evaluate_checkpoint(config, str(workdir))
    assert found.keys() == whole_run[1].keys()
    for name, value in whole_run[1].items():
        assert found[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.slow
def test_results_of_other_sets_stay(whole_run, tmp_path):
    workdir = copy_run(whole_run[0], tmp_path / "two_sets")
    file = workdir / f"eval-{STEPS}.json"
    evaluate.evaluate_checkpoint(tiny_config(STEPS), str(workdir))
    first = json.loads(file.read_text())
    second = evaluate.evaluate_checkpoint(tiny_config(STEPS, eval__sets=(SMALL,)), str(workdir))
    assert all(name.startswith("small/") for name in second)
    assert json.loads(file.read_text()) == first | second
    file.write_text(json.dumps({"val/i2t_r1": 7.0, "val/gone": 1.0, "other/i2t_r1": None}))
    evaluate.evaluate_checkpoint(tiny_config(STEPS), str(workdir))
    assert json.loads(file.read_text()) == first | {"other/i2t_r1": None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval__evaluators": ()}, r"config\.eval\.evaluators=\(\): none can use the set 'val'"),
        (
            {"eval__evaluators": ("patch_text",), "eval__sets": (SMALL,)},
            r"config\.eval\.evaluators=\('patch_text',\): none can use the set 'small'",
        ),
        ({"eval__sets": ("a/b=" + SMALL,)}, r"config\.eval\.sets: 'a/b=.*without '/'"),
        ({"eval__sets": ()}, r"config\.eval\.sets=\(\) names no data"),
    ],
)
def test_nothing_to_measure_is_refused_and_overwrites_nothing(whole_run, tmp_path, fields, message):
    workdir = copy_run(whole_run[0], tmp_path / "nothing")
    file = workdir / f"eval-{STEPS}.json"
    file.write_text("{}")
    with pytest.raises(UserError, match=message):
        evaluate.evaluate_checkpoint(tiny_config(STEPS, **fields), str(workdir))
    assert file.read_text() == "{}"
