"""Command line of `timix_jax.export`.

**Example:**

    python -m timix_jax.export runs/demo --format=open_clip --out=demo_open_clip
    python -m timix_jax.export runs/demo --format=jax --out=demo_jax --platforms=cpu,tpu
"""

from timix_jax.runtime import interrupt

if __name__ == "__main__":
    interrupt.end_at_ctrl_c()  # before the imports, which take seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from timix_jax.errors import UserError
from timix_jax.export import jax_programs
from timix_jax.export.folder import check_free, new_folder, write
from timix_jax.export.formats import JAX, LAYOUTS
from timix_jax.export.refusals import check_dual_encoder
from timix_jax.export.trained import Trained
from timix_jax.inference import load_model
from timix_jax.runtime.command import Parser, run_command
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import local_only


def _parser() -> Parser:
    parser = Parser(
        prog="python -m timix_jax.export",
        description="Writes a trained model as a folder that other programs read.",
    )
    parser.add_argument("model", metavar="WORKDIR", help="a run, or what timix_jax.load opens")
    parser.add_argument("--format", required=True, choices=(*LAYOUTS, JAX))
    parser.add_argument("--out", help="folder to write; default: WORKDIR/export_FORMAT")
    parser.add_argument("--weights", choices=("params", "ema"), help="default: the run's choice")
    parser.add_argument("--tokenizer", help="vocabulary of published weights without one")
    parser.add_argument(
        "--platforms", default=",".join(jax_programs.PLATFORMS), help="of --format=jax"
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.out:
        local_only(args.out, "--out", "copy the folder afterwards")
    else:
        local_only(args.model, "WORKDIR", "give --out=FOLDER for the export")
    target = Path(args.out or Path(args.model) / f"export_{args.format}").expanduser()
    platforms = [name for name in args.platforms.split(",") if name]
    unknown = sorted(set(platforms) - {*jax_programs.PLATFORMS, "rocm"})
    if unknown or not platforms:
        raise UserError(f"--platforms={args.platforms}: give some of cpu, cuda, rocm, tpu")
    check_free(target)
    model = load_model(args.model, weights=args.weights, tokenizer=args.tokenizer, batch_size=8)
    trained = Trained.of(model)
    if args.format == JAX:
        with new_folder(target) as folder:
            jax_programs.write(model, trained, folder, platforms)
    else:
        check_dual_encoder(trained, f"--format={args.format}")
        exported = LAYOUTS[args.format](trained, target)
        with new_folder(target) as folder:
            write(exported, trained, folder)
    print_text(f"{model.origin} written to {target} ({args.format})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for runtime errors, 2 for problems that the user can fix."""
    return run_command(_run, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
