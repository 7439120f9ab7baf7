"""An evaluation compared with one forward pass over the same image-text pairs.

    python -m benchmarks.evaluation                        # configs/demo.py
    python -m benchmarks.evaluation --size S16 --repeats 1

Evaluation: retrieval, from encoded pictures in memory to the recalls. Forward pass: both towers over as many pairs
that stay on the device, in batches of the same size.
"""

import argparse
import functools
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import program, recipes
from benchmarks.interleaved import CLOCKS, Clock, interleaved_seconds, median_ratio
from timix_jax.data.records.schema import Record
from timix_jax.data.sources import Source, open_source
from timix_jax.evaluators.base import EvaluationInputs
from timix_jax.evaluators.placement import divisible, place, split_over_all
from timix_jax.evaluators.retrieval import RetrievalEvaluator
from timix_jax.parallel.mesh import replicated
from timix_jax.training import build as experiment

TARGET = 1.30


class Held:
    """A source whose encoded records are in memory: drawing them is not part of an evaluation."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.annotated = source.annotated
        self._records = [source[index] for index in range(len(source))]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


def evaluation_seconds(
    config: ConfigDict, *, pairs: int, repeats: int, clock: Clock
) -> dict[str, list[float]]:
    """Return `forward` and `evaluation` → seconds over `pairs` pairs in each repetition."""
    run = experiment.build(experiment.read_settings(config))
    size, length = config.model.image.size, config.model.text.max_tokens
    rows = divisible(config.eval.batch_size, run.mesh)
    evaluator = RetrievalEvaluator(
        EvaluationInputs(
            model=run.model,
            source=Held(open_source(f"synthetic:?examples={pairs}&size={size}&seed=1")),
            tokenizer=run.tokenizer,
            mesh=run.mesh,
            image_size=size,
            max_tokens=length,
            batch_size=config.eval.batch_size,
            max_regions=config.regions.max_regions,
        )
    )
    params = jax.device_put(jax.jit(run.model.init)(jax.random.key(0)), replicated(run.mesh))

    @jax.jit
    def encode(params: Any, images: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = run.model.encode_image(params, run.model.embed_patches(params, images))
        return image.embedding, run.model.encode_text(params, tokens).embedding

    rng = np.random.default_rng(0)
    put = functools.partial(place, sharding=split_over_all(run.mesh))
    images = put(rng.integers(0, 256, (rows, size, size, 3), np.uint8))
    tokens = put(rng.integers(1, run.tokenizer.vocab_size, (rows, length), np.int32))

    def forward() -> None:
        done = None
        for _ in range(-(-pairs // rows)):
            done = encode(params, images, tokens)
        jax.block_until_ready(done)

    cases = {"forward": forward, "evaluation": lambda: evaluator.run(params)}
    return interleaved_seconds(cases, repeats=repeats, clock=clock)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: CPU time of all threads, for a shared machine",
    )
    config, args = recipes.parse(parser, argv)
    seconds = evaluation_seconds(
        config, pairs=args.pairs, repeats=args.repeats, clock=CLOCKS[args.clock]
    )
    forward, whole = (statistics.median(seconds[name]) for name in ("forward", "evaluation"))
    ratio = median_ratio(seconds, "evaluation", "forward")
    print(
        "| pairs | forward pass, s | evaluation, s | ratio | target |\n|---|---|---|---|---|\n"
        f"| {args.pairs:,} | {forward:.3g} | {whole:.3g} | {ratio:.3f} | < {TARGET:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    program.run(main)
