"""A run of a few steps on synthetic data, and comparisons of two runs."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from timix_jax.checkpointing import find_checkpoint, restore_params
from timix_jax.config import default_config

# Metrics that depend on the clock and the machine.
SPEED = (
    *("images_per_s", "images_per_s_device", "data_wait", "mfu", "flops_per_step"),
    *("host_memory_peak_gib", "device_memory_peak_gib"),
)


def tiny_config(steps: int = 6, **overrides) -> ConfigDict:
    """Return TiMix with alignment and a moving average on a 4 × 4 grid; `overrides` are fields with `__` for a dot."""
    c = default_config()
    c.data.train = ("synthetic:?examples=48&size=16&captions=2&regions=2",)
    c.data.vocab_size = 64
    c.data.threads = 1
    c.model.update(embed_dim=8, tpp_layer=0, scan=False)
    c.model.image.update(size=16, patch=4, width=16, depth=2, heads=2, mlp_dim=32)
    c.model.text.update(max_tokens=12, width=16, depth=1, heads=2, mlp_dim=32)
    c.mix.mixer = "timix"
    c.mix.ramp = "2 steps"
    c.loss.pta.weight = 1.0
    c.regions.batch_size = 8
    c.regions.max_regions = 2
    c.optim.update(lr=1e-3, warmup=f"{min(2, steps)} steps", ema=0.9)
    c.train.update(batch_size=16, duration=f"{steps} steps")
    c.eval.sets = ("val=synthetic:?examples=12&size=16&captions=2&regions=2&seed=1",)
    c.eval.every = "3 steps"
    c.eval.batch_size = 8
    c.checkpoint.every = "2 steps"
    c.log.every = "1 steps"
    c.log.tensorboard = False
    c.log.peak_tflops = 0.001
    c.pictures.examples = 0  # drawing takes a third of so short a run
    c.update_from_flattened_dict({name.replace("__", "."): v for name, v in overrides.items()})
    return c


def write_config(path: Path, **overrides) -> Path:
    """Write `tiny_config` as a recipe."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in overrides.items())
    path.write_text(
        "from tiny_run import tiny_config\n\n\n"
        f"def get_config():\n    return tiny_config({arguments})\n"
    )
    return path


def arrays(workdir: Path, step: int, part: str = "params") -> list[np.ndarray]:
    """Return the leaves of one part of a checkpoint."""
    path = find_checkpoint(workdir / "checkpoints" / f"{step:08d}")
    return jax.tree.leaves(restore_params(path, part=part))


def metrics(workdir: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without metrics that depend on the clock or the machine."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in SPEED} for line in lines]


def assert_same_run(
    one: Path,
    other: Path,
    step: int,
    parts: tuple[str, ...] = ("params", "ema_params", "opt_state"),
) -> None:
    """Assert that state, logged numbers and results are equal, bit for bit."""
    for part in parts:
        for a, b in zip(arrays(one, step, part), arrays(other, step, part), strict=True):
            np.testing.assert_array_equal(a, b)
    assert metrics(one) == metrics(other)
    assert (one / "results.json").read_text() == (other / "results.json").read_text()


def assert_close_weights(
    one: Path, other: Path, step: int, part: str = "params", *, atol: float
) -> None:
    """Assert that a part of the state is equal up to the order of sums."""
    for a, b in zip(arrays(one, step, part), arrays(other, step, part), strict=True):
        if a.ndim == 4 and a.shape[1] == 3:
            # The bias of the keys does not change attention: its gradient is rounding error, which Adam scales up to
            # whole steps. The shape is (layers, 3, heads, channels), with the keys second.
            a, b = np.delete(a, 1, axis=1), np.delete(b, 1, axis=1)
        np.testing.assert_allclose(a, b, atol=atol)


def copy_run(run: Path, target: Path) -> Path:
    """Copy a run, so that a test can tamper with it."""
    shutil.copytree(run, target)
    return target
