"""The training step: one trace, donated state, the same numbers on 1 and 8 devices."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_model import GRID, make_batch, make_params, tiny_model

from timix_jax.mixing import build_mixer
from timix_jax.models.mplug import Mplug
from timix_jax.objectives import OBJECTIVES, Objective, Term, build_objective
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.score_sources import build_score_source
from timix_jax.optim import schedule
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.parallel.mesh import make_mesh, put_batch, replicated
from timix_jax.training import state as train_state
from timix_jax.training.step import make_train_step

MODEL = tiny_model()
TOTAL = 20
RATE = schedule.warmup_cosine(1e-3, TOTAL, 4, 1e-5, 1e-6)
EMA = 0.9


@dataclasses.dataclass(frozen=True)
class Distance(Objective):
    """An objective of a test's own: mean squared difference of the batch from a point."""

    point: float = 0.5

    name: ClassVar[str] = "distance"

    def reads(self, model):
        return ()

    def __call__(self, forward):
        loss = jnp.square(forward.params["log_temperature"] - self.point)
        return Term(loss, {"far": loss > 1})


def timix(**options):
    mixer = build_mixer("timix", grid=GRID)
    return MixedContrastive(mixer, build_score_source("tpp", MODEL), **options)


def make_state(optimizer, *, ema=True, log_temperature=None):
    shapes = jax.eval_shape(
        lambda key: train_state.create(MODEL, optimizer, key, ema=ema), jax.random.key(0)
    )
    params = make_params(MODEL)
    if log_temperature is not None:
        params["log_temperature"] = jnp.float32(log_temperature)
    copy = jax.tree.map(jnp.array, params) if ema else None
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return dataclasses.replace(
        zeros, params=params, ema_params=copy, opt_state=optimizer.init(params)
    )


def make_step(objectives, *, rate=RATE, lr_scales=(), clip_norm=1.0, weight_decay=0.02):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    optimizer = make_optimizer(
        shapes,
        MODEL.parameter_axes(),
        schedule=rate,
        name="adamw",
        b1=0.9,
        b2=0.999,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        lr_scales=lr_scales,
    )
    step = make_train_step(MODEL, objectives, optimizer, schedule=rate, ema_decay=EMA, seed=0)
    return step, optimizer


def train(objectives, devices, steps, **options):
    """Metrics by step and the final state, on the host; and how often the step was traced."""
    mesh = make_mesh(jax.devices()[:devices])
    plain, optimizer = make_step(objectives, **options)
    traces = 0

    def counted(state, batch):
        nonlocal traces
        traces += 1
        return plain(state, batch)

    step = jax.jit(counted, donate_argnums=0)
    state = jax.device_put(make_state(optimizer), replicated(mesh))
    history, states = [], []
    for seed in range(steps):
        batch = make_batch(16, region_images=8, seed=seed)
        before = state
        state, metrics = step(state, put_batch(batch, mesh))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        history.append({name: float(value) for name, value in metrics.items()})
        # A copy: NumPy would only look at the CPU buffer, which then could not be donated.
        states.append(jax.tree.map(np.array, state))
    assert step._cache_size() == 1
    assert traces == 1
    return history, states


EXTRA = (
    build_objective("itc", alpha=0.4, alpha_steps=2),
    build_objective("pta"),
    timix(target="blend", ramp=3, ends_at=5, weight=0.7),
)


@pytest.fixture(scope="module")
def extra_run():
    return train(EXTRA, 1, 7)


def test_one_trace_while_window_and_weight_change(extra_run):
    history, _ = extra_run
    assert len({h["window"] for h in history}) > 1
    np.testing.assert_allclose(
        [h["gamma"] for h in history], [0, 1 / 3, 2 / 3, 1, 1, 0, 0], rtol=1e-6
    )
    assert [h["loss/mix"] > 0 for h in history] == [False] + [True] * 4 + [False] * 2
    for h in history:
        np.testing.assert_allclose(h["lambda"], 1 - h["window"] ** 2 / GRID**2, rtol=1e-5)
        assert h["finite"] == 1


def test_weighted_sum(extra_run):
    for h in extra_run[0]:
        total = h["loss/itc"] + h["loss/pta"] + 0.7 * h["loss/mix"]
        assert h["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_eight_devices_give_the_same(extra_run):
    """Sums in another order: equal to float32 rounding, which Adam's division by √ν enlarges."""
    check_same(extra_run, train(EXTRA, 8, 3))


def check_same(one, other):
    for a, b in zip(one[0][:3], other[0], strict=True):
        assert a["window"] == b["window"]
        for name in a:
            assert b[name] == pytest.approx(a[name], rel=2e-4, abs=1e-6), name
    leaves = lambda run: jax.tree_util.tree_leaves_with_path(run[1][2])
    for (path, a), (_, b) in zip(leaves(one), leaves(other), strict=True):
        if "qkv" in str(path) and "bias" in str(path):
            # Softmax does not see the keys' bias: its gradient is rounding error, which Adam scales up to whole steps.
            a, b = np.delete(a, 1, axis=1), np.delete(b, 1, axis=1)
        np.testing.assert_allclose(b, a, atol=1e-4, err_msg=str(path))


def test_average_follows_the_new_parameters(extra_run):
    _, states = extra_run
    average = jax.tree.map(np.asarray, make_params(MODEL))
    for state in states:
        average = jax.tree.map(lambda a, p: EMA * a + (1 - EMA) * p, average, state.params)
        for got, want in zip(
            jax.tree.leaves(state.ema_params), jax.tree.leaves(average), strict=True
        ):
            np.testing.assert_allclose(got, want, atol=1e-6)
    assert [int(state.step) for state in states] == list(range(1, 8))


def test_the_average_is_of_every_part():
    """Public code leaves fusion encoder and decoder out of it."""
    model = Mplug(tiny_model(scan=False), fusion_depth=2, stride=1, decoder_depth=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def drawn(seed):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(s.dtype), shapes)

    student, teacher = drawn(0), drawn(1)
    state = train_state.TrainState(jnp.int32(0), student, teacher, optax.sgd(0.1).init(student))
    step = make_train_step(
        model, (Distance(),), optax.sgd(0.1), schedule=RATE, ema_decay=EMA, seed=0
    )
    after, _ = jax.jit(step)(state, {})
    assert {"fusion", "decoder", "heads"} < set(after.ema_params)
    for (path, got), old, new in zip(
        jax.tree_util.tree_leaves_with_path(after.ema_params),
        *map(jax.tree.leaves, (teacher, after.params)),
        strict=True,
    ):
        np.testing.assert_allclose(got, EMA * old + (1 - EMA) * new, atol=1e-6, err_msg=str(path))


@pytest.mark.slow
def test_logged_rate_is_the_one_used_and_patterns_scale_it():
    """A first Adam step without decay moves every weight by its learning rate times ±1."""
    rate = lambda step: jnp.asarray([1e-3, 4e-3, 2e-3], jnp.float32)[step]
    scales = (("image/.*", 0.1), ("text/word_embed/.*", 0.0))
    plain, optimizer = make_step(
        (build_objective("itc"),), rate=rate, lr_scales=scales, clip_norm=None, weight_decay=0.0
    )
    state = dataclasses.replace(make_state(optimizer), step=jnp.int32(1))
    # The optimiser counts by itself: bring it to the same step.
    state = dataclasses.replace(
        state,
        opt_state=jax.tree.map(
            lambda leaf: leaf + 1 if leaf.dtype == jnp.int32 else leaf, state.opt_state
        ),
    )
    new, metrics = jax.jit(plain)(state, make_batch(16, region_images=8))
    assert metrics["lr"] == pytest.approx(4e-3)
    # At count 2 with empty moments, m̂/√v̂ = (1−b1)/(1−b1²) · √((1−b2²)/(1−b2)).
    unit = (0.1 / (1 - 0.9**2)) / np.sqrt(0.001 / (1 - 0.999**2))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.params, state.params)
    assert moved["text"]["projection"]["kernel"] == pytest.approx(4e-3 * unit, rel=0.02)
    assert moved["image"]["projection"]["kernel"] == pytest.approx(4e-4 * unit, rel=0.02)
    assert moved["text"]["word_embed"]["embedding"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("start", "limit"), [(0.001, 0.001), (0.5, 0.5)])
def test_temperature_stays_in_its_range(start, limit):
    """The loss pulls τ further out, at a rate that would carry it there."""
    point = -20.0 if start < 0.1 else 20.0
    plain, optimizer = make_step((Distance(point=point),), rate=lambda step: jnp.float32(1.0))
    state = make_state(optimizer, log_temperature=np.log(start))
    new, metrics = jax.jit(plain)(state, make_batch(16))
    assert MODEL.temperature(new.params) == pytest.approx(limit, rel=1e-5)
    assert metrics["temperature"] == pytest.approx(start, rel=1e-5)
    inside = make_state(optimizer, log_temperature=np.log(0.07))
    free, _ = jax.jit(make_step((Distance(point=point),))[0])(inside, make_batch(16))
    assert 0.001 < float(MODEL.temperature(free.params)) < 0.5


def test_a_new_objective_is_summed_with_its_weight(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "distance", Distance)
    itc = build_objective("itc", weight=2.0)
    added = build_objective("distance", weight=0.25, point=3.0)
    plain, optimizer = make_step((itc, added))
    state = make_state(optimizer)
    _, metrics = jax.jit(plain)(state, make_batch(16))
    expected = (float(state.params["log_temperature"]) - 3.0) ** 2
    assert metrics["loss/distance"] == pytest.approx(expected, rel=1e-5)
    total = 2 * float(metrics["loss/itc"]) + 0.25 * expected
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)
    assert metrics["far"] == 1


@pytest.mark.slow
def test_what_is_not_finite_is_flagged():
    plain, optimizer = make_step((Distance(),))
    step = jax.jit(plain)
    assert step(make_state(optimizer), make_batch(16))[1]["finite"]
    broken = make_state(optimizer, log_temperature=np.nan)
    assert not step(broken, make_batch(16))[1]["finite"]
    # A finite loss whose update ruins the weights: nothing of it may be saved.
    plain, optimizer = make_step((Distance(),), rate=lambda step: jnp.float32(1e39))
    assert not jax.jit(plain)(make_state(optimizer), make_batch(16))[1]["finite"]
