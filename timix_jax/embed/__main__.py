"""Command line of `timix_jax.embed`.

**Example:**

    python -m timix_jax.embed photos/ --model=runs/demo --out=photos_emb
    python -m timix_jax.embed 'shards/{00000..00099}.tar' --model=runs/demo --out=emb --share=0/4
"""

from timix_jax.runtime import interrupt

if __name__ == "__main__":
    interrupt.end_at_ctrl_c()  # before the imports, which take seconds

import argparse
import collections
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2

from timix_jax.embed.engine import embed_parts
from timix_jax.embed.inputs import digest, find_parts
from timix_jax.embed.layout import EmbeddingFolder
from timix_jax.errors import UserError
from timix_jax.inference import load_model
from timix_jax.runtime.command import Parser, run_command
from timix_jax.runtime.compile_cache import use_cache
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import as_path, check_reachable

_SHOWN = 10  # reasons in the summary


def _parser() -> Parser:
    parser = Parser(
        prog="python -m timix_jax.embed",
        description="Embeds the images of a folder or of tar files, and their captions.",
    )
    parser.add_argument("images", help="a folder, or quoted tar files: 'DIR/{000..009}.tar'")
    parser.add_argument("--model", required=True, help="a run, or one of its checkpoints")
    parser.add_argument("--out", required=True, help="folder to write; run again to continue")
    parser.add_argument("--share", default="0/1", help="K/N: every N-th part from the K-th on")
    parser.add_argument("--part-size", type=int, default=4096, help="images of a folder per file")
    parser.add_argument("--batch-size", type=int, help="images per batch")
    parser.add_argument("--weights", choices=("params", "ema"), help="default: the run's choice")
    parser.add_argument(
        "--compile-cache", default="~/.cache/timix_jax/xla", help="folder; empty for none"
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    share, shares = _share(args.share)
    if args.part_size < 1:
        raise UserError(f"--part-size {args.part_size}: give at least 1")
    parts = find_parts(args.images, args.part_size)
    own = range(share, len(parts), shares)
    if not own:
        raise UserError(
            f"--share {args.share}: there are only {len(parts)} parts; give a smaller --part-size, or fewer hosts"
        )
    out = as_path(args.out)
    check_reachable(out, "--out ")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder")
    cv2.setNumThreads(1)  # images are read in threads
    if args.compile_cache:
        use_cache(args.compile_cache)
    model = load_model(args.model, weights=args.weights, batch_size=args.batch_size)
    folder = EmbeddingFolder(out, len(parts))
    folder.start(
        {
            "model": model.origin,
            "weights": args.weights or "",
            "embed_dim": model.embed_dim,
            "images": digest(parts),
        }
    )
    before = sum(map(folder.is_complete, own))
    if before:
        print_text(f"{before} of {len(own)} parts are complete already")
    embed_parts(model, parts, own, folder, print_text)
    _summarise(folder, folder.gather_skipped())


def _share(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UserError(f"--share={text}; write K/N with 0 <= K < N")
    return int(part), int(parts)


def _summarise(folder: EmbeddingFolder, skipped: Sequence[Mapping[str, Any]]) -> None:
    complete = sum(map(folder.is_complete, range(folder.parts)))
    left_out = [entry for entry in skipped if not entry["embedded"]]
    print_text(
        f"{folder.path}: {complete} of {folder.parts} parts, {len(left_out):,} files skipped"
    )
    reasons = collections.Counter(entry["reason"].partition(":")[0] for entry in skipped)
    for reason, count in reasons.most_common(_SHOWN):
        first = next(entry["path"] for entry in skipped if entry["reason"].startswith(reason))
        print_text(f"  {count:,} × {reason}, such as {first!r}")
    if skipped:
        print_text(f"  all are listed in {folder.path / 'skipped.jsonl'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for runtime errors, 2 for problems that the user can fix."""
    return run_command(_run, _parser(), argv, stopped="stopped; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
