"""Command line of `timix_jax.data.prepare`.

**Example:**

    python -m timix_jax.data.prepare karpathy --json FILE --images DIR --split train --out OUT
    python -m timix_jax.data.prepare table --file pairs.csv --images DIR --out OUT
    python -m timix_jax.data.prepare webdataset --shards 'DIR/{00000..00009}.tar' --out OUT
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

from timix_jax.data.prepare.engine import prepare
from timix_jax.data.prepare.karpathy import karpathy_tasks
from timix_jax.data.prepare.regions import read_regions
from timix_jax.data.prepare.table import table_tasks
from timix_jax.data.prepare.tasks import ShardTask
from timix_jax.data.prepare.webdataset import webdataset_tasks
from timix_jax.data.records.manifest import MANIFEST
from timix_jax.data.sources.records import RecordSource
from timix_jax.errors import UserError
from timix_jax.runtime.machine import available_cores
from timix_jax.runtime.remote import is_remote


@dataclasses.dataclass(frozen=True)
class _Format:
    """A subcommand: its options, and their conversion to tasks."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    tasks: Callable[[argparse.Namespace], Sequence[ShardTask]]


def _karpathy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=_local, required=True, help="the captions file")
    parser.add_argument("--images", type=_local, required=True, help="image folder")
    parser.add_argument("--split", required=True, help="one or more, such as train,restval")


def _karpathy(args: argparse.Namespace) -> Sequence[ShardTask]:
    return karpathy_tasks(
        args.json,
        _folder(args.images),
        splits=tuple(args.split.split(",")),
        regions=read_regions(args.regions) if args.regions else {},
        num_shards=args.num_shards,
    )


def _table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=_local, required=True, help=".csv, or .tsv with tabs")
    parser.add_argument("--images", type=_local, required=True, help="folder of the paths")
    parser.add_argument("--path-column", default="path", help="default: path")
    parser.add_argument(
        "--caption-column", action="append", help="may be repeated; default: caption"
    )
    parser.add_argument(
        "--no-header", action="store_true", help="no header row: columns are numbered from 0"
    )
    parser.add_argument(
        "--no-quotes",
        action="store_true",
        help='treat " as an ordinary character that does not enclose cells',
    )


def _table(args: argparse.Namespace) -> Sequence[ShardTask]:
    return table_tasks(
        args.file,
        _folder(args.images),
        path_column=args.path_column,
        caption_columns=args.caption_column or ["caption"],
        header=not args.no_header,
        quotes=not args.no_quotes,
        regions=read_regions(args.regions) if args.regions else {},
        num_shards=args.num_shards,
    )


def _webdataset_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        type=_local_pattern,
        required=True,
        help="quoted: 'DIR/*.tar', 'DIR/{000..009}.tar'",
    )
    parser.add_argument("--caption-field", default="caption", help="of NNN.json; default: caption")


def _webdataset(args: argparse.Namespace) -> Sequence[ShardTask]:
    return webdataset_tasks(
        args.shards,
        caption_field=args.caption_field,
        regions=args.regions,
        num_shards=args.num_shards,
    )


FORMATS = {
    "karpathy": _Format("Karpathy-style JSON and image folder", _karpathy_options, _karpathy),
    "table": _Format("CSV or TSV of path and caption", _table_options, _table),
    "webdataset": _Format("tar shards of img2dataset", _webdataset_options, _webdataset),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m timix_jax.data.prepare",
        description="Writes image–text pairs as ArrayRecord shards with a manifest.",
    )
    subparsers = parser.add_subparsers(dest="format", required=True)
    for name, fmt in FORMATS.items():
        sub = subparsers.add_parser(name, help=fmt.help, description=fmt.help)
        fmt.add_options(sub)
        sub.add_argument(
            "--out", type=_output, required=True, help="folder to write; run again to continue"
        )
        sub.add_argument("--name", help="of the data set; default: the name of --out")
        sub.add_argument(
            "--regions", type=_local, help='JSON lines of {"key", "regions": [{"text", "box"}]}'
        )
        sub.add_argument(
            "--max-size", type=_positive, help="shrink images to this longer side, pixels"
        )
        sub.add_argument("--num-shards", type=_positive, help="number of output shards")
        sub.add_argument("--workers", type=_positive, default=available_cores(), help="processes")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _local(text: str) -> Path:
    return Path(_local_pattern(text))


def _output(text: str) -> Path:
    if "?" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a '?', where a data source's options start (records:DIR?annotated=0.5); "
            "give a name without one"
        )
    return _local(text)


def _local_pattern(text: str) -> str:
    if is_remote(text):  # Path() would turn it into gs:/…
        raise argparse.ArgumentTypeError(
            f"{text!r} is not local: prepare reads and writes local files; copy the finished folder with gcloud "
            "storage cp -r OUT gs://BUCKET/ and train on records:gs://BUCKET/OUT"
        )
    return text


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"--images {path}: no such folder")
    return path


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
        manifest = prepare(
            FORMATS[args.format].tasks(args),
            out=args.out,
            name=args.name,
            command=_command(args),
            max_size=args.max_size,
            workers=args.workers,
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
    for kind in ("skipped", "dropped"):
        for reason, entry in manifest[kind].items():
            more = ", …" if entry["count"] > 3 else ""
            print(f"  {kind} {entry['count']} × {reason}: {', '.join(entry['first'][:3])}{more}")
    print(f"  details: {out / MANIFEST}; use it as records:{out}")


if __name__ == "__main__":
    sys.exit(main())
