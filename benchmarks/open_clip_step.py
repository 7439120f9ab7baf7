"""Our plain training step against open_clip's on PyTorch: same model, weights and batch, a pinned CPU core or a GPU.

    pip install torch open_clip_torch                       # here, or in another environment:
    python -m benchmarks.open_clip_step --torch_python /path/to/bin/python
    python -m benchmarks.open_clip_step --device cuda --model ViT-B-16 --batch 256 --steps 10 --compile

Forward, backward, gradient clipping and AdamW, without mixing; in float32 on a core, with products in bfloat16 on a
GPU. Each side is a process of its own; they take turns of a few steps, so that a slow moment of the machine meets all.
A turn of a single step would time how a process wakes up, which no training does: our step takes a tenth longer then.
Before that, both run three steps from open_clip's initial weights, and the run ends if losses or gradient norms differ
by more than their rounding explains.

--compile adds open_clip through torch.compile; --checkout PATH adds the step of another checkout of this project
(before and after a change, in one run); --xla_flags adds ours with other flags of the compiler.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import program
from benchmarks.open_clip_shared import ARCHITECTURES
from benchmarks.pinned_worker import ROOT, Worker

OPEN_CLIP, OURS = "open_clip", "TiMix-JAX"
CHECKED_STEPS = 3
# Tolerances of losses and gradient norms between the sides, by the type of the products.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
# All processes share one GPU: JAX must not preallocate three quarters of its memory.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def check_parity(reports: Mapping[str, Mapping[str, Any]], tolerance: float) -> str:
    """Return one line on how far the first steps agree; end the program where they do not."""
    base = reports[OPEN_CLIP]
    worst = 0.0
    for name, report in reports.items():
        for key in ("loss", "grad_norm"):
            error = float(np.max(np.abs(np.divide(report[key], base[key]) - 1)))
            if not error < tolerance:
                sys.exit(
                    f"{name} does not compute what open_clip does: {key} of the first steps is {report[key]}, "
                    f"not {base[key]}"
                )
            worst = max(worst, error)
    losses = ", ".join(f"{loss:.6f}" for loss in base["loss"])
    return (
        f"Loss of the first steps {losses}, gradient norm {base['grad_norm'][0]:.4f}: equal to a "
        f"relative {worst:.0e} in all cases."
    )


def table(seconds: Mapping[str, Sequence[float]], batch_size: int, flops: float) -> str:
    """Return one row per case in Markdown; a ratio above 1 is faster than open_clip."""
    lines = [
        "| step | ms, median | ms, least | images/s | GFLOP/s | of open_clip, least | median of pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    base = seconds[OPEN_CLIP]
    for name, values in seconds.items():
        least, median = min(values), statistics.median(values)
        paired = statistics.median(b / v for b, v in zip(base, values, strict=True))
        lines.append(
            f"| {name} | {median * 1e3:.0f} | {least * 1e3:.0f} | {batch_size / least:.2f} "
            f"| {flops / least / 1e9:.1f} | {min(base) / least:.3f} | {paired:.3f} |"
        )
    return "\n".join(lines)


def start_workers(args: argparse.Namespace, folder: Path) -> dict[str, Worker]:
    """Start one process per case, open_clip first: all use its initial weights."""
    weights = folder / "weights.npz"
    common = ["--model", args.model, "--batch", str(args.batch), "--weights", str(weights)]
    common += ["--dtype", args.dtype]
    pytorch = [args.torch_python, "-m", "benchmarks.open_clip_torch_worker", *common]
    pytorch += ["--device", args.device]
    core = args.core if args.device == "cpu" else None
    workers = {OPEN_CLIP: Worker(pytorch, core=core)}
    if args.compile:
        compiled = [*pytorch, "--compile"]
        workers[f"{OPEN_CLIP}, torch.compile"] = Worker(compiled, core=core)
    ours = [sys.executable, "-m", "benchmarks.open_clip_jax_worker", *common]
    ours += ["--scan"] if args.scan else []
    env = {"JAX_PLATFORMS": args.device, **(SHARED_GPU if core is None else {})}
    workers[OURS] = Worker(ours, core=core, env=env)
    for flags in args.xla_flags:
        workers[f"{OURS}, {flags}"] = Worker(ours, core=core, env=env | {"XLA_FLAGS": flags})
    for checkout in args.checkout:
        # Use the package of that checkout, and its benchmark if it has one.
        path = {"PYTHONPATH": f"{Path(checkout).resolve()}:{ROOT}", "PYTHONSAFEPATH": "1"}
        workers[f"{OURS} at {checkout}"] = Worker(ours, core=core, env=env | path)
    return workers


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=ARCHITECTURES, default="ViT-S-16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=6, help="blocks per case")
    parser.add_argument("--steps", type=int, default=4, help="steps per block")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--core", type=int, default=0, help="CPU core to pin to")
    parser.add_argument("--torch_python", default=sys.executable, help="where open_clip_torch is")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--scan", action="store_true", help="our blocks scanned, not unrolled")
    parser.add_argument("--xla_flags", action="append", default=[])
    parser.add_argument("--checkout", action="append", default=[])
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: CPU time of the process, for a shared machine",
    )
    args = parser.parse_args(argv)
    args.dtype = "float32" if args.device == "cpu" else "bfloat16"
    where = f"core {args.core}" if args.device == "cpu" else "one GPU"

    with tempfile.TemporaryDirectory() as folder:
        workers = start_workers(args, Path(folder))
    reports = {name: worker.report for name, worker in workers.items()}
    flops = reports[OURS]["flops"]
    print(
        f"{args.model}, batch {args.batch}, {flops / 1e9:.0f} GFLOP per step in {args.dtype}, {where}: "
        f"{args.blocks} turns of {args.steps} step(s) a case, {args.clock} clock. "
        f"{reports[OPEN_CLIP]['versions']}; {reports[OURS]['versions']}.\n"
        f"{check_parity(reports, TOLERANCES[args.dtype])}\n",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for block in range(args.blocks):
        for name in workers if block % 2 == 0 else reversed(workers):
            seconds[name].append(workers[name].run(args.steps)[args.clock] / args.steps)
    for worker in workers.values():
        worker.close()
    print(table(seconds, args.batch, flops), flush=True)


if __name__ == "__main__":
    program.run(main)
