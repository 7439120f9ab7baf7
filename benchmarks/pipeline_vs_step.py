"""Images per second that the input pipeline delivers and that the training step consumes.

    python -m benchmarks.pipeline_vs_step                                       # configs/demo.py
    python -m benchmarks.pipeline_vs_step --config configs/flickr8k.py --train records:data/flickr8k/train

The pipeline runs alone, with all its threads, and the step alone, on a batch that stays on the
device; both have all cores, in one process and in turn.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import program, recipes
from benchmarks.interleaved import interleaved_seconds, median_ratio
from timix_jax.parallel.mesh import put_batch
from timix_jax.training import build as experiment
from timix_jax.training.step import make_train_step

TARGET = 3.0
WARM_UP_BATCHES = 4


def measure(config: ConfigDict, *, seconds: float, repeats: int) -> dict[str, list[float]]:
    """Return `pipeline` and `step` → seconds per batch in each repetition."""
    run = experiment.build(experiment.read_settings(config))
    state = jax.jit(run.create_state, out_shardings=run.layout.shardings(run.abstract_state))(
        jax.random.key(config.seed)
    )
    step = jax.jit(
        make_train_step(
            run.model,
            run.objectives,
            run.optimizer,
            schedule=run.schedule,
            ema_decay=config.optim.ema,
            seed=config.seed,
        ),
        donate_argnums=0,
    )
    first = run.first_batch()
    first.pop("example_id")
    batch = put_batch(first, run.mesh)
    carried = [state]

    def train(steps: int) -> None:
        metrics = None
        for _ in range(steps):
            carried[0], metrics = step(carried[0], batch)
        jax.block_until_ready((carried[0], metrics))

    train(1)
    start = time.perf_counter()
    train(1)
    steps = max(1, round(seconds / (time.perf_counter() - start)))
    pipeline: list[float] = []

    def fetch() -> None:
        batches = run.train_iterator(0)
        try:
            for _ in range(WARM_UP_BATCHES):
                next(batches)
            start, count = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - start) < seconds:
                next(batches)
                count += 1
            pipeline.append(elapsed / count)
        finally:
            batches.close()

    # The pipeline has a clock of its own: starting its threads does not count.
    measured = interleaved_seconds({"step": lambda: train(steps), "": fetch}, repeats=repeats)
    return {
        "step": [total / steps for total in measured["step"]],
        "pipeline": pipeline[-repeats:],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", nargs="+", default=["configs/demo.py"])
    parser.add_argument("--train", default="", help="source instead of the recipe's")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags

    print("| recipe | pipeline, images/s | step, images/s | ratio | target |")
    print("|---|---|---|---|---|", flush=True)
    for path in args.config:
        config = recipes.load(path)
        if args.train:
            config.data.train = (args.train,)
        times = measure(config, seconds=args.seconds, repeats=args.repeats)
        rate = {
            name: config.train.batch_size / statistics.median(values)
            for name, values in times.items()
        }
        ratio = median_ratio(times, "step", "pipeline")
        print(
            f"| {path} | {rate['pipeline']:.0f} | {rate['step']:.0f} | {ratio:.1f} "
            f"| ≥ {TARGET:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    program.run(main)
