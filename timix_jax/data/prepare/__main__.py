"""Command line of `timix_jax.data.prepare`.

**Example:**

    python -m timix_jax.data.prepare karpathy --json FILE --images DIR --split train --out OUT
    python -m timix_jax.data.prepare coco --captions FILE --instances FILE --images DIR --out OUT
    python -m timix_jax.data.prepare table --file pairs.csv --images DIR --out OUT
    python -m timix_jax.data.prepare webdataset --shards 'DIR/{00000..00009}.tar' --out OUT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from timix_jax.data.prepare import coco, karpathy, table, webdataset
from timix_jax.data.prepare.engine import prepare
from timix_jax.data.prepare.options import (
    local_path,
    output_folder,
    positive_int,
    side_regions,
    unprintable,
)
from timix_jax.data.records.manifest import MANIFEST
from timix_jax.data.sources.records import RecordSource
from timix_jax.errors import UserError
from timix_jax.runtime.command import Parser
from timix_jax.runtime.machine import available_cores

FORMATS = {
    "coco": coco.FORMAT,
    "karpathy": karpathy.FORMAT,
    "table": table.FORMAT,
    "webdataset": webdataset.FORMAT,
}


def _parser() -> Parser:
    parser = Parser(
        prog="python -m timix_jax.data.prepare",
        description="Writes image–text pairs as ArrayRecord shards with a manifest.",
    )
    subparsers = parser.add_subparsers(dest="format", required=True)
    for name, fmt in FORMATS.items():
        sub = subparsers.add_parser(name, help=fmt.help, description=fmt.help)
        fmt.add_options(sub)
        sub.add_argument(
            "--out",
            type=output_folder,
            required=True,
            help="folder to write; run again to continue",
        )
        sub.add_argument("--name", help="of the data set; default: the name of --out")
        sub.add_argument(
            "--regions", type=local_path, help='JSON lines of {"key", "regions": [{"text", "box"}]}'
        )
        sub.add_argument(
            "--max-size", type=positive_int, help="shrink images to this longer side, pixels"
        )
        sub.add_argument("--num-shards", type=positive_int, help="number of output shards")
        sub.add_argument(
            "--workers", type=positive_int, default=available_cores(), help="processes"
        )
    return parser


def _command(args: argparse.Namespace) -> dict[str, Any]:
    """Return what identifies the work: all options except those that cannot change the output."""
    ignored = ("out", "workers", "num_shards", "max_size")  # the engine adds the last two
    return {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ignored
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for problems that the user can fix."""
    logging.set_verbosity(logging.INFO)
    try:
        args = _parser().parse_args(argv)
        args.name = args.name or args.out.resolve().name
        if Path(args.name).name != args.name:
            raise UserError(f"--name {args.name}: used in file names; give one without '/'")
        if bad := unprintable(args.name):
            raise UserError(f"--name {args.name!r}: used in file names and has {bad}; give another")
        manifest = prepare(
            FORMATS[args.format].tasks(args),
            out=args.out,
            name=args.name,
            command=_command(args),
            max_size=args.max_size,
            workers=args.workers,
            side_keys=side_regions(args),
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; fix it, then the same command continues", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    _report(args.out, manifest)
    if args.regions and not manifest["regions"]:
        warning = f"warning: --regions {args.regions}: no key matches an example, such as"
        print(f"{warning} {RecordSource(args.out)[0].key!r}", file=sys.stderr)
    return 0


def _report(out: Path, manifest: dict[str, Any]) -> None:
    print(
        f"{out}: {manifest['examples']} images, {manifest['captions']} captions, "
        f"{manifest['regions']} regions, {manifest['bytes'] / 1e6:.1f} MB "
        f"in {len(manifest['shards'])} shards"
    )
    for kind in ("skipped", "dropped", "noted"):
        for reason, entry in manifest[kind].items():
            more = ", …" if entry["count"] > 3 else ""
            print(f"  {kind} {entry['count']} × {reason}: {', '.join(entry['first'][:3])}{more}")
    print(f"  details: {out / MANIFEST}; use it as records:{out}")


if __name__ == "__main__":
    sys.exit(main())
