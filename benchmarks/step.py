"""Cost of the whole training step with mixing, against its floor and against the plain step.

    python -m benchmarks.step                            # the model of configs/demo_boxes.py
    python -m benchmarks.step --size S16 --batch 8       # ViT-S/16 at 224 px, both towers of size S

Floor of placement "extra" = the plain step + one more forward and backward pass of the image tower
+ PTA. The real train step runs on one batch that stays on the device, in one process; the cases
alternate, and ratios are medians over pairs of the same round.
"""

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import program, recipes
from benchmarks.interleaved import CLOCKS, Clock, interleaved_seconds, median_ratio
from timix_jax.config import complete
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Feature, Forward, Objective, Term
from timix_jax.optim import schedule
from timix_jax.training import build as experiment
from timix_jax.training import state as train_state
from timix_jax.training.step import TrainStep, make_train_step

TOTAL_STEPS = 1_000_000  # mixing must not end during the measurement


@dataclasses.dataclass(frozen=True)
class SecondView(Objective):
    """One more forward and backward pass of the image tower, and nothing else."""

    name: ClassVar[str] = "second_view"

    def reads(self, model: ImageTextModel) -> Sequence[Feature]:
        """Return nothing: the pass is its own."""
        return ()

    def __call__(self, forward: Forward) -> Term:
        """Return the mean of the embeddings; the factor, 1 in float32, keeps XLA from merging two equal passes."""
        patches = forward.patches()
        patches = patches * (1 + 1e-12 * forward.step).astype(patches.dtype)
        image = forward.model.encode_image(forward.params, patches)
        return Term(jnp.mean(image.embedding))


class Case(NamedTuple):
    """One row: what the step does, the row it is compared with, and the ratio it may reach."""

    name: str
    fields: dict[str, Any]
    base: str = ""
    target: float | None = None
    second_view: bool = False


MIXED = {"mix.mixer": "timix", "mix.fraction": 1.0, "mix.ramp": "0 steps", "mix.until": "100%"}
EXTRA = MIXED | {"mix.placement": "extra"}
REPLACE = MIXED | {"mix.placement": "replace", "mix.target": "hard"}
WITHOUT_PTA = {"loss.pta.weight": 0.0}
WITH_PTA = {"loss.pta.weight": 1.0}
PLAIN = {"mix.mixer": "none"}

CASES = (
    Case("plain", PLAIN | WITHOUT_PTA),
    Case("plain + second view", PLAIN | WITHOUT_PTA, "plain", second_view=True),
    Case("plain + PTA", PLAIN | WITH_PTA, "plain"),
    Case("floor: plain + second view + PTA", PLAIN | WITH_PTA, "plain", second_view=True),
    Case(
        "TiMix extra, tpp",
        EXTRA | WITH_PTA | {"mix.score": "tpp"},
        "floor: plain + second view + PTA",
        1.03,
    ),
    Case("TiMix replace, tpp", REPLACE | WITHOUT_PTA | {"mix.score": "tpp"}, "plain", 1.2),
    Case(
        "TiMix replace, tpp, + PTA", REPLACE | WITH_PTA | {"mix.score": "tpp"}, "plain + PTA", 1.2
    ),
    Case("TiMix replace, random", REPLACE | WITHOUT_PTA | {"mix.score": "random"}, "plain", 1.03),
    Case("TiMix replace, oracle", REPLACE | WITHOUT_PTA | {"mix.score": "oracle"}, "plain", 1.03),
)


def random_batch(config: ConfigDict, rng: np.random.Generator) -> dict[str, Any]:
    """Return a random batch of the shapes of `config`, with boxes, regions and padded captions."""
    batch, regions = config.train.batch_size, config.regions.batch_size
    per_image, length = config.regions.max_regions, config.model.text.max_tokens
    region_length = config.regions.max_tokens or length

    def images(count: int) -> np.ndarray:
        side = config.model.image.size
        return rng.integers(0, 256, (count, side, side, 3), np.uint8)

    def tokens(*shape: int) -> np.ndarray:
        *rows, length = shape
        ids = rng.integers(1, config.data.vocab_size, shape, np.int32)
        ends = rng.integers(length // 2, length + 1, (*rows, 1))
        return np.where(np.arange(length) < ends, ids, 0)

    def boxes(*shape: int) -> np.ndarray:
        low = rng.uniform(0, 0.6, (*shape, 2)).astype(np.float32)
        return np.concatenate([low, low + 0.3], axis=-1)

    return {
        "image": images(batch),
        "tokens": tokens(batch, length),
        "boxes": boxes(batch, 3),
        "box_mask": np.ones((batch, 3), bool),
        "regions": {
            "image": images(regions),
            "tokens": tokens(regions, per_image, region_length),
            "boxes": boxes(regions, per_image),
            "mask": np.ones((regions, per_image), bool),
        },
    }


def case_objectives(config: ConfigDict, model: ImageTextModel, case: Case) -> list[Objective]:
    """Build the objectives of `config` with the fields of the case."""
    changed = ConfigDict(config)
    changed.update_from_flattened_dict(case.fields)
    settings = experiment.read_settings(changed)
    to_steps = functools.partial(
        schedule.steps, batch_size=1, examples=TOTAL_STEPS, total_steps=TOTAL_STEPS
    )
    objectives = experiment.build_objectives(settings, model, None, to_steps)
    return [*objectives, SecondView()] if case.second_view else objectives


def with_bases(names: Collection[str]) -> list[Case]:
    """Return the named cases (all if none is named) and the cases that they are compared with."""
    wanted = set(names) or {case.name for case in CASES}
    for case in reversed(CASES):  # bases precede the cases compared with them
        if case.name in wanted and case.base:
            wanted.add(case.base)
    return [case for case in CASES if case.name in wanted]


def measure(
    config: ConfigDict, cases: Sequence[Case], *, steps: int, repeats: int, clock: Clock
) -> dict[str, list[float]]:
    """Return case → seconds per step in each repetition."""
    settings = experiment.read_settings(config)
    model = experiment.build_model(settings, vocab_size=settings.data.vocab_size, pad_id=0)
    rate = schedule.warmup_cosine(1e-4, TOTAL_STEPS, 1, 0.0, 0.0)
    params = jax.eval_shape(model.init, jax.random.key(0))
    optimizer = experiment.build_optimizer(settings.optim, params, model.parameter_axes(), rate)
    batch = jax.device_put(random_batch(config, np.random.default_rng(0)))
    create = functools.partial(train_state.create, model, optimizer, ema=config.optim.ema > 0)
    # All cases share one state: it is large and the same for all.
    state = [jax.jit(create)(jax.random.key(0))]

    def runner(step: TrainStep) -> Callable[[], None]:
        jitted = jax.jit(step, donate_argnums=0)

        def run() -> None:
            for _ in range(steps):
                state[0], metrics = jitted(state[0], batch)
            jax.block_until_ready((state[0], metrics))

        return run

    runners = {
        case.name: runner(
            make_train_step(
                model,
                case_objectives(config, model, case),
                optimizer,
                schedule=rate,
                ema_decay=config.optim.ema,
                seed=0,
            )
        )
        for case in cases
    }
    seconds = interleaved_seconds(runners, repeats=repeats, clock=clock)
    return {name: [total / steps for total in values] for name, values in seconds.items()}


def table(cases: Sequence[Case], seconds: Mapping[str, list[float]], batch_size: int) -> str:
    """Return a Markdown table with one row per case."""
    lines = ["| step | ms | images/s | ratio | of | target |", "|---|---|---|---|---|---|"]
    for case in cases:
        median = statistics.median(seconds[case.name])
        ratio = f"{median_ratio(seconds, case.name, case.base):.3f}" if case.base else ""
        base = case.base.split(":")[0]
        target = f"≤ {case.target:.2f}" if case.target else ""
        lines.append(
            f"| {case.name} | {median * 1e3:.1f} | {batch_size / median:.1f} | {ratio} | {base} "
            f"| {target} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--config", default="configs/demo_boxes.py", help="recipe that gives the model"
    )
    parser.add_argument("--size", choices=["config", "S16"], default="config")
    parser.add_argument("--batch", type=int, default=0, help="default: the recipe's")
    parser.add_argument("--scan", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--steps", type=int, default=1, help="steps per measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], default=[])
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: CPU time of all threads, for a shared machine; without GPU time",
    )
    args = parser.parse_args(argv)

    small = args.size == "S16"
    config = complete(recipes.small_config()) if small else recipes.load(args.config)
    config.regions.batch_size = config.regions.batch_size or max(1, config.train.batch_size // 4)
    if args.batch:
        share = config.regions.batch_size / config.train.batch_size
        config.train.batch_size = args.batch
        config.regions.batch_size = max(1, round(share * args.batch))
    if args.scan is not None:
        config.model.scan = args.scan
    v, device = config.model.image, jax.devices()[0]
    print(
        f"{'ViT-S/16' if small else args.config}: {v.size} px, patch {v.patch}, {v.depth} blocks of "
        f"{v.width}, batch {config.train.batch_size}, {config.regions.batch_size} annotated images "
        f"with {config.regions.max_regions} regions, {config.model.dtype}, predictor at block "
        f"{config.model.tpp_layer}, {'scanned' if config.model.scan else 'unrolled'}\n"
        f"{device.platform} ({device.device_kind}), median of {args.repeats} interleaved "
        f"measurements of {args.steps} step(s), {args.clock} clock\n",
        flush=True,
    )
    cases = with_bases(args.cases)
    seconds = measure(
        config, cases, steps=args.steps, repeats=args.repeats, clock=CLOCKS[args.clock]
    )
    print(table(cases, seconds, config.train.batch_size), flush=True)


if __name__ == "__main__":
    program.run(main)
