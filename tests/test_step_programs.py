"""Objectives that end before the training does: another program from there on, the same numbers."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_model import compiler_settings
from tiny_run import arrays, assert_same_run, copy_run, tiny_config

from timix_jax import experiment
from timix_jax.config import complete
from timix_jax.parallel.mesh import put_batch
from timix_jax.step_programs import StepPrograms, run_programs
from timix_jax.train import train_and_evaluate
from timix_jax.train_step import jit_train_step, make_train_step

STEPS, END = 5, 3
FIELDS = {
    "mix__placement": "extra",
    "mix__until": f"{END} steps",
    "eval__sets": (),
    "checkpoint__every": "2 steps",
    "checkpoint__keep_last": 3,
}


class Term:
    def __init__(self, name, ends_at, successor=None):
        self.name, self.ends_at, self.successor = name, ends_at, successor


def test_each_part_of_the_training_has_one_program():
    built = []

    def build(objectives):
        built.append([o.name for o in objectives])
        return len(built)

    programs = StepPrograms(build, [Term("itc", None), Term("mix", 4), Term("pta", 6)])
    assert [programs.at(step) for step in range(8)] == [
        *((1, True), (1, False), (1, False), (1, False)),
        *((2, True), (2, False)),
        *((3, True), (3, False)),
    ]
    assert built == [["itc", "mix", "pta"], ["itc", "pta"], ["itc"]]
    assert [programs.ended(step) for step in (3, 4, 6)] == [[], ["mix"], ["mix", "pta"]]


def test_a_run_that_is_resumed_behind_an_end_builds_one_program():
    built = []

    def build(objectives):
        built.append(objectives)
        return "program"

    programs = StepPrograms(build, [Term("itc", None), Term("mix", 4)])
    assert programs.at(7)[1]
    assert not programs.at(8)[1]
    assert [[o.name for o in objectives] for objectives in built] == [["itc"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose mixing ends after its third step of five."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with compiler_settings(
        jax_compilation_cache_dir=str(tmp_path_factory.mktemp("xla")),
        jax_persistent_cache_min_compile_time_secs=0.0,
    ):
        train_and_evaluate(tiny_config(STEPS, **FIELDS), str(folder))
        yield folder


def test_numbers_are_those_of_one_program_in_which_mixing_weighs_nothing(whole):
    """γ is 0 after the end: the step with all objectives is the reference."""
    run = experiment.build(complete(tiny_config(STEPS, **FIELDS)))
    step = make_train_step(
        run.model,
        run.objectives,
        run.optimizer,
        schedule=run.schedule,
        ema_decay=run.config.optim.ema,
        seed=run.config.seed,
    )
    jitted = jit_train_step(step, run.layout, run.abstract_state)
    state = jax.jit(run.create_state)(jax.random.key(run.config.seed))
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
    assert ["loss/mix" in line for line in logged] == [True] * END + [False] * (STEPS - END)
    assert ["lambda" in line for line in logged] == [True] * END + [False] * (STEPS - END)
    for a, b in zip(arrays(whole, STEPS, "params"), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stopped_at", [2, 4])
def test_resumed_before_and_behind_the_end_is_uninterrupted(whole, stopped_at, tmp_path):
    folder = copy_run(whole, tmp_path / "resumed")
    for later in (4, 5):
        if later > stopped_at:
            shutil.rmtree(folder / "checkpoints" / f"{later:08d}")
    (folder / "results.json").unlink()
    train_and_evaluate(tiny_config(STEPS, **FIELDS), str(folder))
    assert_same_run(folder, whole, STEPS)


def test_the_program_behind_the_end_holds_no_mixed_view():
    """Fewer matrix products are lowered, and each program is traced once."""
    run = experiment.build(complete(tiny_config(STEPS, **FIELDS)))
    programs = run_programs(run)
    batch = next(iterator := run.train_iterator(0))
    iterator.close()
    batch.pop("example_id")
    on_devices = put_batch(batch, run.mesh)
    products = []
    for step in (0, END):
        program, _ = programs.at(step)
        text = program.lower(run.abstract_state, on_devices).as_text()
        products.append(text.count("dot_general"))
    plain = experiment.build(complete(tiny_config(STEPS, **FIELDS | {"mix__mixer": "none"})))
    text = run_programs(plain).at(0)[0].lower(plain.abstract_state, on_devices).as_text()
    assert products[0] > products[1] == text.count("dot_general")
