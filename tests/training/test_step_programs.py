"""Objectives that end before the training does: another program from there on, the same numbers."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from one_device import on_one_device
from tiny_run import arrays, assert_same_run, copy_run, tiny_config

from timix_jax.objectives import objectives_at
from timix_jax.parallel.mesh import put_batch
from timix_jax.training import build as experiment
from timix_jax.training.programs import StepPrograms, run_programs
from timix_jax.training.step import jit_train_step, make_train_step
from timix_jax.training.train import train_and_evaluate

STEPS, END = 5, 3
FIELDS = {
    "mix__until": f"{END} steps",
    "eval__sets": (),
    "checkpoint__every": "1 steps",
    "checkpoint__keep_last": 5,
}


@dataclasses.dataclass(frozen=True)
class Span:
    """An objective, as far as programs know it."""

    name: str
    ends_at: int | None
    starts_at: int = 0


def test_each_part_of_the_training_has_one_program():
    built = []

    def build(objectives):
        built.append([o.name for o in objectives])
        return len(built)

    programs = StepPrograms(build, [Span("itc", None), Span("mix", 4), Span("pta", 6)])
    assert [programs.at(step) for step in range(8)] == [
        *((1, True), (1, False), (1, False), (1, False)),
        *((2, True), (2, False)),
        *((3, True), (3, False)),
    ]
    assert built == [["itc", "mix", "pta"], ["itc", "pta"], ["itc"]]
    assert [programs.ended(step) for step in (3, 4, 6)] == [[], ["mix"], ["mix", "pta"]]


def test_one_objective_starts_where_another_ends():
    terms = [Span("mix", 4), Span("pta", 6), Span("itc", None, starts_at=4)]
    programs = StepPrograms(lambda objectives: [o.name for o in objectives], terms)
    assert [programs.at(step) for step in (3, 4, 5, 6)] == [
        *((["mix", "pta"], True), (["pta", "itc"], True), (["pta", "itc"], False)),
        (["itc"], True),
    ]
    assert [programs.ended(step) for step in (3, 4, 6)] == [[], ["mix"], ["mix", "pta"]]


def test_a_run_that_is_resumed_behind_an_end_builds_one_program():
    built = []

    def build(objectives):
        built.append(objectives)
        return "program"

    programs = StepPrograms(build, [Span("itc", None), Span("mix", 4)])
    assert programs.at(7)[1]
    assert not programs.at(8)[1]
    assert [[o.name for o in objectives] for objectives in built] == [["itc"]]


# One objective ends and another takes its place, smoothing and dropped patches included.
REPLACE = {
    **FIELDS,
    "mix__placement": "replace",
    "mix__label_smoothing": 0.1,
    "model__image__patch_dropout": 0.25,
}


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with on_one_device():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose mixing ends after its third step of five."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_and_evaluate(tiny_config(STEPS, **REPLACE), str(folder))
    return folder


@pytest.mark.slow
def test_numbers_are_those_of_one_program_in_which_mixing_weighs_nothing(whole):
    """γ is 0 after the end: the step with those of the start is the reference."""
    run = experiment.build(experiment.read_settings(tiny_config(STEPS, **REPLACE)))
    step = make_train_step(
        run.model,
        objectives_at(run.objectives, 0),
        run.optimizer,
        schedule=run.schedule,
        ema_decay=run.ema_decay,
        seed=run.seed,
    )
    jitted = jit_train_step(step, run.layout, run.abstract_state)
    state = jax.jit(run.create_state)(jax.random.key(run.seed))
    batches = run.train_iterator(0)
    losses = []
    for _ in range(STEPS):
        batch = next(batches)
        batch.pop("example_id")
        state, metrics = jitted(state, put_batch(batch, run.mesh))
        losses.append(float(metrics["loss"]))
    batches.close()

    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    np.testing.assert_allclose([line["loss"] for line in logged], losses, rtol=1e-5)
    for name in ("loss/mix", "lambda", "gamma", "window"):
        assert [name in line for line in logged] == [True] * END + [False] * (STEPS - END)
    assert ["loss/itc" in line for line in logged] == [False] * END + [True] * (STEPS - END)
    for a, b in zip(arrays(whole, STEPS, "params"), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_resumed_at_the_end_is_uninterrupted(whole, tmp_path):
    folder = copy_run(whole, tmp_path / "resumed")
    for later in range(END + 1, STEPS + 1):
        shutil.rmtree(folder / "checkpoints" / f"{later:08d}")
    (folder / "results.json").unlink()
    train_and_evaluate(tiny_config(STEPS, **REPLACE), str(folder))
    assert_same_run(folder, whole, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["extra", "replace"])
def test_the_program_behind_the_end_holds_no_mixed_view(placement):
    """Fewer matrix products are lowered, as many as without a mixer, and no program has a conditional for mixing."""
    # One size of window: the sums over windows of a traced size are a switch over sizes.
    size = {"mix__options__timix__low": 0.5, "mix__options__timix__high": 0.5}
    config = FIELDS | {"mix__placement": placement, **size}
    run = experiment.build(experiment.read_settings(tiny_config(STEPS, **config)))
    programs = run_programs(run)
    batch = run.first_batch()
    batch.pop("example_id")
    on_devices = put_batch(batch, run.mesh)
    products, conditionals = [], []
    for step in (0, END):
        program, _ = programs.at(step)
        text = program.lower(run.abstract_state, on_devices).as_text()
        products.append(text.count("dot_general"))
        conditionals.append(text.count("stablehlo.case") + text.count("stablehlo.if"))
    plain = experiment.build(
        experiment.read_settings(tiny_config(STEPS, **config | {"mix__mixer": "none"}))
    )
    text = run_programs(plain).at(0)[0].lower(plain.abstract_state, on_devices).as_text()
    assert products[0] > products[1] == text.count("dot_general")
    # jnp.diagonal of the plain loss lowers to some of its own, on the platform.
    own = text.count("stablehlo.case") if placement == "extra" else 0
    assert conditionals == [own, own]
