"""The step through the TPU compiler without a TPU: its report, and what it refuses. Needs libtpu (Linux x86-64)."""

import dataclasses
import importlib.util

import pytest

from timix_jax.config import default_config
from timix_jax.errors import UserError
from timix_jax.inspection import compile as compiling
from timix_jax.inspection import topology
from timix_jax.inspection.hlo import Collective
from timix_jax.runtime import devices as kinds
from timix_jax.training.build import read_settings

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (Linux x86-64 only)"
)


def small_config():
    c = default_config()
    tower = {"width": 128, "depth": 2, "heads": 2, "mlp_dim": 256}
    c.model.image.update({"size": 64, "patch": 16, **tower})
    c.model.text.update({"max_tokens": 8, **tower})
    c.model.tpp_layer = 0
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.data.vocab_size = 512
    c.mix.mixer = "timix"
    c.mix.score = "random"
    c.train.batch_size = 64
    c.mesh.fsdp = 2
    c.mesh.small = 1024
    c.contrastive.method = "ring"
    return c


@pytest.fixture(scope="module")
def compiled_and_lowered():
    with pytest.MonkeyPatch.context() as patch:
        lowered, compile_ = [], compiling._compile
        patch.setattr(compiling, "_compile", lambda low: lowered.append(low) or compile_(low))
        compiled = compiling.compile_step(read_settings(small_config()), "v5e:2x2")
    return compiled, lowered[0].as_text()


@pytest.fixture(scope="module")
def compiled(compiled_and_lowered):
    return compiled_and_lowered[0]


@pytest.mark.slow
def test_memory_and_flops_of_a_chip(compiled):
    assert (compiled.devices, compiled.mesh) == (4, {"data": 2, "fsdp": 2, "tensor": 1})
    state = 3 * 4 * compiled.parameters  # parameters and two moments, float32
    batch = 64 // 4 * (64 * 64 * 3 + 8 * 4)
    assert (
        state / 2 < compiled.arguments - batch < 0.75 * state
    )  # cut in two, but TPU tiles pad small arrays
    assert compiled.temporaries > 0
    assert compiled.hbm == 16 * 2**30
    assert compiled.fits
    assert compiled.peak >= compiled.arguments + compiled.temporaries


@pytest.mark.slow
def test_layers_are_gathered_and_partners_exchanged(compiled):
    purposes = [(one.kind, compiling.purpose(one)) for one in compiled.collectives]
    assert ("all-gather", "parameters") in purposes
    assert ("collective-permute", "mixing partners") in purposes
    assert ("collective-permute", "resharding") not in purposes
    in_the_loop = [
        one.runs
        for one in compiled.collectives
        if compiling.purpose(one) == "parameters" and "blocks" in one.source
    ]
    assert 2 in in_the_loop  # once a layer


@pytest.mark.slow
def test_every_exchange_of_the_ring_is_counted(compiled_and_lowered):
    compiled, lowered = compiled_and_lowered
    ring = [c for c in compiled.collectives if compiling.purpose(c) == "contrastive loss"]
    permutes = [one for one in ring if one.kind == "collective-permute"]
    assert len(permutes) == lowered.count("stablehlo.collective_permute") > 1
    assert {one.runs for one in permutes} == {3}  # of four devices
    assert all(one.is_ring_step for one in permutes)


def test_a_ring_of_two_devices_is_no_exchange_of_partners():
    source = "jit(train_step)/jvp(pair_sums)/shard_map/while/body/closed_call/ppermute"
    one = Collective("collective-permute", 64, 1, source, ((0, 1), (1, 0)))
    assert compiling.purpose(one) == "contrastive loss"
    exchange = one._replace(source="jit(train_step)/transpose(jvp(pair_sums))/shard_map")
    assert compiling.purpose(exchange) == "mixing partners"


@pytest.mark.slow
def test_report(compiled):
    text = compiling.report(compiled, step_time=0.01)
    for words in (
        "v5e:2x2: 4 chips",
        "temporaries",
        "of 16.0 GiB",
        "MFU",
        "mixing partners",
        "gradients",
    ):
        assert words in text.replace("16 GiB", "16.0 GiB")


@pytest.mark.slow
def test_a_step_that_does_not_fit_is_refused_with_hints():
    config = small_config()
    config.model.image.size = 1024
    config.model.remat = "none"
    config.train.batch_size = 8192
    with pytest.raises(
        UserError, match=r"v5e:2x2: the step takes .*iB of the .*iB .* config.train.batch_size"
    ):
        compiling.compile_for(config, "", topology="v5e:2x2")


@pytest.mark.parametrize("name", ["", "v5e:3x77", "v99:2x2", "v5e:0x2", "v5e"])
def test_slices_that_do_not_exist(name):
    with pytest.raises(UserError, match=r"--topology.*such as v5e:4x4"):
        compiling.compile_for(small_config(), "", topology=name)


def test_batches_are_checked_against_the_slice():
    config = small_config()
    config.train.batch_size = 6
    with pytest.raises(UserError, match=r"config.train.batch_size=6.*4 devices"):
        compiling.compile_for(config, "", topology="v5e:2x2")


@pytest.mark.parametrize(
    ("name", "number", "gib", "tflops", "unit"),
    [
        ("v4:2x2x1", 4, 32, 275, "chip"),
        ("v5p:2x2x1", 4, 95, 459, "chip"),
        ("tpu7x:2x2x1", 8, 192 / 2, 2307 / 2, "core"),
    ],
)
def test_devices_of_a_slice(name, number, gib, tflops, unit):
    devices = topology.slice_devices(name)
    assert len(devices) == number
    assert kinds.hbm_bytes(devices[0]) == gib * 2**30
    assert kinds.peak_flops(devices[0]) == tflops * 1e12
    assert kinds.device_unit(devices[0]) == unit


@pytest.mark.slow
def test_a_report_names_the_unit(compiled):
    text = compiling.report(dataclasses.replace(compiled, unit="core"))
    assert "4 cores" in text
    assert "chip" not in text


def test_memory_hints_name_what_is_not_set_yet():
    config = small_config()
    hints = compiling.memory_hints(read_settings(config), 4)
    assert "method" not in hints
    assert "remat" not in hints
    assert "config.mesh.fsdp=4" in hints
    config.contrastive.method, config.model.remat, config.mesh.fsdp = "dense", "none", 1
    said = compiling.memory_hints(read_settings(config), 1)
    assert "config.contrastive.method='ring'" in said
    assert "config.model.remat='full'" in said
    assert "fsdp" not in said


@pytest.mark.slow
def test_unknown_memory_of_a_chip(compiled):
    unknown = dataclasses.replace(compiled, hbm=None, peak_flops=None)
    assert "memory is not known" in compiling.report(unknown)


@pytest.mark.slow
def test_examples_per_chip(compiled):
    assert "64, 16 per chip" in compiling.report(compiled)
    assert compiled.rows == 16


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_step_time_is_positive_and_finite(seconds):
    with pytest.raises(UserError, match="--step_time="):
        compiling.compile_for(small_config(), "", topology="v5e:2x2", step_time=seconds)


def test_ring_reductions_of_gradients_are_told_from_resharding():
    ring = ((0, 1), (1, 2), (2, 3), (3, 0))
    source = (
        "jit(train_step)/transpose(jvp(TextTransformer))/blocks/while/body/Block/mlp/up/dot_general"
    )
    one = Collective("collective-permute", 64, 12, source, ring)
    assert compiling.purpose(one) == "gradients"
    for other in (
        one._replace(pairs=((0, 2), (1, 3), (2, 0), (3, 1))),
        one._replace(source="jit(train_step)/jvp(TextTransformer)/mlp/up/dot_general"),
        one._replace(source="jit(train_step)/transpose(jvp(TextTransformer))/concatenate"),
    ):
        assert compiling.purpose(other) == "resharding"
