"""Evaluations that cannot be done: refused at the start, or named and counted while the training goes on."""

import json
import pathlib
import types

import jax
import pytest
from one_device import on_one_device
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.data.records.manifest import shard_name, write_manifest
from timix_jax.data.records.schema import CorruptExample, Region
from timix_jax.data.records.writer import RecordWriter
from timix_jax.data.sources import open_source
from timix_jax.data.sources.synthetic import open_synthetic
from timix_jax.errors import RunError, UserError
from timix_jax.evaluators import RetrievalEvaluator
from timix_jax.evaluators.patch_text import PatchTextEvaluator
from timix_jax.training import evaluate
from timix_jax.training.evaluate import evaluate_checkpoint, raise_failures, run_evaluators
from timix_jax.training.train import train_and_evaluate

GOOD = "good=synthetic:?examples=12&size=16&captions=2&regions=2&seed=1"


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with on_one_device():
        yield


def records(folder, examples=24, **changes):
    """A records folder of synthetic examples; `changes` map a record to a field's value."""
    source = open_synthetic("", examples=examples, size=16, captions=1, regions=1)
    folder.mkdir()
    with RecordWriter(folder / shard_name("x", 0, 1)) as writer:
        for row in range(examples):
            record = source[row]
            new = {name: change(row, record) for name, change in changes.items()}
            writer.write(record._replace(**new))
    write_manifest(folder, "x", [writer.summary])
    return f"records:{folder}"


def damage(spec):
    """Overwrite the middle of the only shard, where images lie."""
    (shard,) = pathlib.Path(spec.removeprefix("records:")).glob("*.array_record")
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    shard.write_bytes(content)


def config_of(*sets, **more):
    options = {
        "mix__mixer": "none",
        "loss__pta__weight": 0.0,
        "regions__batch_size": 0,
        "eval__sets": (GOOD, *sets),
        "eval__every": "1 steps",
        "checkpoint__every": "1 steps",
        "eval__evaluators": ("retrieval", "patch_text", "classification"),
    }
    return tiny_config(2, **(options | more))


def whole(row, record):
    return (Region("all", (0.0, 0.0, 16.0, 16.0)),)


def two_later(row, record):
    return ("a", "b") if row == 20 else ("a",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regions": whole}, r"config\.eval, bad: .*no box smaller than its image"),
        ({"captions": two_later}, r"config\.eval, bad: .* has 2 captions where one class name"),
    ],
)
def test_what_can_be_known_is_refused_at_the_start(tmp_path, changes, said):
    spec = records(tmp_path / "data", **changes)
    with pytest.raises(UserError, match=said):
        train_and_evaluate(config_of(f"bad={spec}"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("first", ["whole", "damaged"])
def test_one_smaller_box_is_enough(tmp_path, first):
    """Of an image that cannot be decoded, the evaluation will tell."""
    changes = {"regions": lambda row, record: record.regions if row == 5 else whole(row, record)}
    if first == "damaged":
        changes = {"regions": whole, "image": lambda row, record: b"no image"}
    source = open_source(records(tmp_path / "data", 6, **changes))
    evaluator = object.__new__(PatchTextEvaluator)
    inputs = types.SimpleNamespace(source=source, model=types.SimpleNamespace(grid=4))
    object.__setattr__(evaluator, "inputs", inputs)
    evaluator.check()


@pytest.mark.slow
def test_the_training_goes_on_and_saves(tmp_path, capfd):
    spec = records(tmp_path / "data", captions=two_later)
    damage(spec)
    workdir = tmp_path / "run"
    config = config_of(
        f"bad={spec}", eval__evaluators=("retrieval", "patch_text"), pictures__examples=1
    )
    with pytest.raises(UserError, match=r"bad: retrieval failed: .* \(2 times\); .*") as caught:
        train_and_evaluate(config, str(workdir))
    assert "the training is complete, with all other results, in" in str(caught.value)
    assert "\n" not in str(caught.value)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        assert checkpointer.latest_valid() == 2
    results = json.loads((workdir / "results.json").read_text())
    assert {"good/i2t_r1", "good/auc"} <= results.keys()
    assert not [name for name in results if "failed" in name or name == "bad/i2t_r1"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for step in (1, 2):
        (line,) = [x for x in lines if x["step"] == step and "good/i2t_r1" in x]
        assert line["bad/retrieval_failed"] == 1
    assert (workdir / "pictures" / "training_curves.png").exists()
    # The same command evaluates once more; --mode=eval writes what it can.
    with pytest.raises(UserError, match="bad: retrieval failed"):
        train_and_evaluate(config, str(workdir))
    with pytest.raises(UserError, match=r"bad: retrieval failed: .*; all other results are in"):
        evaluate_checkpoint(config, str(workdir))
    assert json.loads((workdir / "eval-2.json").read_text()) == results


class Fails:
    """A stand-in for an evaluator."""

    def __init__(self, error=None):
        self.error = error

    def run(self, params):
        if self.error is not None:
            raise self.error
        return {"x": 0.5}

    def text(self, metrics):
        return "fine"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("u"), UserError),
        (RunError("r"), RunError),
        (CorruptExample("key", "bad"), UserError),
        (OSError(5, "Input/output error"), RunError),
        (MemoryError("too much"), RunError),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), RunError),
    ],
)
def test_the_other_evaluators_run(error, kind):
    measured = run_evaluators({"a": [Fails(error), Fails()], "b": [Fails()]}, {})
    assert evaluate.flat_results(measured) == {"a/Fails_failed": 1, "a/x": 0.5, "b/x": 0.5}
    assert evaluate.complete_results(measured) == {"a/x": 0.5, "b/x": 0.5}
    with pytest.raises(UserError, match=r"^a: Fails failed: .*; the rest$") as caught:
        raise_failures(measured, "the rest")
    assert type(caught.value) is kind
    raise_failures(measured[1:], "the rest")


@pytest.mark.parametrize(
    "error", [TypeError("a bug"), jax.errors.JaxRuntimeError("INTERNAL: broken")]
)
def test_bugs_are_not_hidden(error):
    with pytest.raises(type(error)):
        run_evaluators({"a": [Fails(error)]}, {})


def test_registered_evaluators_go_by_their_name():
    assert evaluate.evaluator_name(object.__new__(RetrievalEvaluator)) == "retrieval"
