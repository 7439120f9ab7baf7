"""FLOPs of a run's steps, as the plan of the run counts them."""

import jax
import jax.numpy as jnp
import pytest
from tiny_run import tiny_config

from timix_jax.parallel.device_batches import put_batch
from timix_jax.training import build as experiment
from timix_jax.training import step as step_module
from timix_jax.training.programs import run_programs


def plan_of(**fields):
    return experiment.build(experiment.read_settings(tiny_config(10, **fields)))


def counting(function, calls):
    def counted(*arguments):
        calls.append(function.__name__)
        return function(*arguments)

    return counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("placement", "score"), [("extra", "tpp"), ("replace", "tpp"), ("replace", "similarity")]
)
def test_training_costs_less_when_mixing_has_ended(placement, score):
    mixing = {"mix__placement": placement, "mix__score": score, "mix__target": "hard"}
    plain = plan_of(mix__mixer="none").step_flops()
    run = plan_of(**mixing, mix__until="4 steps")
    mixed = run.step_flops()
    assert mixed > plain
    assert run.step_flops(4) == plain
    assert run.training_flops(1, 4) == 3 * mixed
    assert run.training_flops(4, 7) == 3 * plain
    assert run.training_flops(2, 9) == 2 * mixed + 5 * plain
    assert plan_of(**mixing, mix__until="100%").training_flops(0, 10) == 10 * mixed


@pytest.mark.slow
def test_one_trace_counts_and_runs_a_step(monkeypatch):
    traces = []
    monkeypatch.setattr(step_module, "total_loss", counting(step_module.total_loss, traces))
    run = plan_of()
    run.step_flops()
    run.training_flops(0, 10)
    zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), run.abstract_state)
    state = jax.jit(zeros, out_shardings=run.layout.shardings(run.abstract_state))()
    batch = run.first_batch()
    batch.pop("example_id")
    run_programs(run).at(0)[0].lower(state, put_batch(batch, run.mesh))
    assert len(traces) == 1


@pytest.mark.slow
def test_devices_and_layouts():
    fields = {"contrastive__method": "ring", "model__scan": True}
    one, eight = (
        plan_of(**fields, mesh__fsdp=fsdp, mesh__tensor=tensor).step_flops()
        for fsdp, tensor in ((1, 1), (4, 2))
    )
    assert one == eight


@pytest.mark.slow
def test_accumulation():
    whole, parts = (
        plan_of(train__accumulate=count, regions__batch_size=16).step_flops() for count in (1, 2)
    )
    assert whole == parts


@pytest.mark.slow
def test_the_optimizers_products_are_its_own():
    adam, muon = (plan_of(optim__name=name) for name in ("adamw", "muon"))
    assert adam.step_flops() == muon.step_flops()
    products = [plan.counted_flops(plan.objectives).optimizer for plan in (adam, muon)]
    assert products[0] == 0 < products[1]
