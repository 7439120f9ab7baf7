"""A mixer, an objective, a source and an evaluator, each added by one class and one registry entry."""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_run import metrics, tiny_config

from timix_jax.config import complete, default_config
from timix_jax.data import sources
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.errors import UserError
from timix_jax.evaluators import EVALUATORS, Evaluator
from timix_jax.mixing import MIXERS, Mixed
from timix_jax.mixing.partners import Partners
from timix_jax.objectives import OBJECTIVES, Feature, Objective, Term
from timix_jax.reporting.plots.curves import training_curves
from timix_jax.training import build as experiment
from timix_jax.training.train import train_and_evaluate


@dataclasses.dataclass(frozen=True)
class Halves:
    """A mixer: the lower part of each image comes from its partner."""

    grid: int
    share: float = 0.5

    needs_scores: ClassVar[bool] = False
    space: ClassVar[str] = "patches"
    partners: ClassVar[Partners] = Partners("flip")

    def __call__(self, key, sample):
        inputs = sample.image
        rows = jnp.arange(self.grid**2) // self.grid
        own = rows < round(self.share * self.grid)
        batch = inputs.shape[0]
        return Mixed(
            jnp.where(own[None, :, None], inputs, inputs[::-1]),
            jnp.arange(batch - 1, -1, -1, dtype=jnp.int32),
            jnp.full(batch, own.mean()),
        )


@dataclasses.dataclass(frozen=True)
class Smallness(Objective):
    """Pulls the mean embedding of captions to zero; multiplies the embeddings with themselves too, for nothing."""

    power: float = 2.0

    name: ClassVar[str] = "smallness"

    def reads(self, model):
        return [Feature("text"), Feature("image", block=0)]

    def __call__(self, forward):
        text = forward.text().embedding
        mean, product = text.mean(axis=0), text.T @ text
        loss = jnp.sum(jnp.abs(mean) ** self.power)
        unused = 0 * (product.sum() + forward.block(0).mean())
        return Term(loss + unused, {"text_mean": jnp.abs(mean).max()})


def open_bright(argument: str = "", *, examples: int = 32):
    """Open a source: synthetic examples under another name."""
    source = open_synthetic(examples=examples, size=16, captions=2, regions=2)
    source.name = f"bright:{argument}"
    return source


@dataclasses.dataclass(frozen=True)
class Weights(Evaluator):
    """An evaluator: the share of weights above a threshold."""

    threshold: float = 0.0

    panels: ClassVar = {"Weights": {"above": "above the threshold"}}

    @classmethod
    def applies_to(cls, source):
        return len(source) == 12

    def run(self, params):
        leaves = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(params)]
        return {"above": float((np.concatenate(leaves) > self.threshold).mean())}


def step_flops(config):
    return experiment.build(experiment.read_settings(config)).step_flops()


@pytest.mark.slow
def test_four_extensions_in_one_run(tmp_path, monkeypatch, capsys):
    run_with_extensions(tmp_path, monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    assert printed.count(f"{'':<18}  above 0") == 1


def test_settings_of_an_evaluator(monkeypatch):
    monkeypatch.setitem(EVALUATORS, "weights", Weights)
    assert default_config().eval.options.weights.threshold == 0.0
    for given, message in (
        ({"treshold": 0.5}, "treshold=0.5: there is no such field; did you mean 'threshold'"),
        ({"threshold": "x"}, "threshold='x' is of type str; expected int or float"),
    ):
        config = ConfigDict({"eval": {"options": {"weights": given}}})
        with pytest.raises(UserError, match=f"config.eval.options.weights.{message}"):
            complete(config)


def test_panel_of_an_evaluator(tmp_path, monkeypatch):
    """The curves draw an evaluator's panel only while it is registered."""
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {s}, "loss": 1, "val/above": 0.5}}\n' for s in (1, 2)))
    training_curves(log, tmp_path / "without.png", "run")
    monkeypatch.setitem(EVALUATORS, "weights", Weights)
    training_curves(log, tmp_path / "with.png", "run")
    with Image.open(tmp_path / "without.png") as one, Image.open(tmp_path / "with.png") as other:
        assert one.width * 1.5 < other.width


def run_with_extensions(tmp_path, monkeypatch):
    monkeypatch.setitem(MIXERS, "halves", Halves)
    monkeypatch.setitem(OBJECTIVES, "smallness", Smallness)
    monkeypatch.setitem(sources.SOURCES, "bright", "test_extension:open_bright")
    monkeypatch.setitem(EVALUATORS, "weights", Weights)
    config = tiny_config(2)
    config.mix.mixer = "halves"
    config.mix.ramp = "0 steps"
    config.mix.options.halves.share = 0.25
    config.loss.smallness.power = 3.0
    without = step_flops(config)
    config.loss.smallness.weight = 0.5
    # Its own product over 16 captions of 8 values, forward and backward; the block lies in a pass that runs anyway.
    assert step_flops(config) - without == 3 * 2 * 16 * 8 * 8
    config.data.train = ("bright:day?examples=24",)
    config.eval.sets = (*config.eval.sets, "other=synthetic:?examples=4&size=16")
    config.eval.evaluators = ("retrieval", "weights")
    config.eval.options.weights.threshold = 1e6
    results = train_and_evaluate(config, str(tmp_path))
    lines = [line for line in metrics(tmp_path) if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["lambda"] == 0.25
        assert line["loss/mix"] > 0
        assert line["loss/smallness"] <= 8 * line["text_mean"] ** 3
        total = line["loss/itc"] + line["loss/pta"] + line["loss/mix"]
        assert np.isclose(line["loss"], total + 0.5 * line["loss/smallness"], rtol=1e-5)
    assert results["val/above"] == 0.0
    assert "other/i2t_r1" in results
    assert "other/above" not in results  # that set does not have 12 examples
    assert json.loads((tmp_path / "results.json").read_text()) == results
