"""The process of benchmarks.open_clip_step that runs open_clip. Imports no JAX."""

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.open_clip_model import build, make_step, named_arrays, tensors
from benchmarks.open_clip_shared import ARCHITECTURES, random_batch
from benchmarks.open_clip_step import CHECKED_STEPS
from benchmarks.pinned_worker import serve


def main() -> None:
    """Write the initial weights to `--weights`, check a few steps, then serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    if args.device == "cpu":
        torch.set_num_threads(1)
    sizes = ARCHITECTURES[args.model]
    model = build(sizes)
    arrays: dict[str, Any] = dict(
        named_arrays(model)
    )  # typed for savez, which also has named options
    np.savez(args.weights, **arrays)
    batch = tensors(random_batch(sizes, args.batch), args.device)
    dtype = getattr(torch, args.dtype)
    step = make_step(model.to(args.device), batch, compiled=args.compile, dtype=dtype)

    def steps(count: int) -> list[tuple[float, float]]:
        """Run steps; loss and norm are read after all are dispatched, so that a GPU never waits in between."""
        done = [step() for _ in range(count)]
        return [(loss.item(), norm.item()) for loss, norm in done]

    first = steps(CHECKED_STEPS)
    versions = (
        f"torch {torch.__version__}, open_clip {importlib.metadata.version('open_clip_torch')}"
    )
    report = {
        "loss": [loss for loss, _ in first],
        "grad_norm": [norm for _, norm in first],
        "versions": versions,
    }
    serve(steps, report)


if __name__ == "__main__":
    main()
