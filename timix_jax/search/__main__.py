"""Command line of `timix_jax.search`.

**Example:**

    python -m timix_jax.search "a lemon and two skis" --index=photos_emb
    python -m timix_jax.search --image=photo.jpg --index=photos_emb --k=50 --html=like_this.html
"""

from timix_jax.runtime import interrupt

if __name__ == "__main__":
    interrupt.end_at_ctrl_c()  # before the imports, which take seconds

import argparse
import sys
import time
from collections.abc import Sequence

from absl import logging

from timix_jax.data.prepare.tasks import shown
from timix_jax.data.records.schema import CorruptExample
from timix_jax.errors import UserError, reraise_write_errors
from timix_jax.inference import LoadedModel, load_model
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.command import Parser, run_command
from timix_jax.runtime.compile_cache import use_cache
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import as_path
from timix_jax.search.index import EmbeddingIndex, Hit
from timix_jax.search.page import Picture, render_page
from timix_jax.search.pictures import heat_overlay, read_image, thumbnail


def _parser() -> Parser:
    parser = Parser(
        prog="python -m timix_jax.search",
        description="Finds the images that fit a text or an image best, and shows them on a page.",
    )
    parser.add_argument("text", nargs="?", help="what to look for")
    parser.add_argument("--image", help="look for images like this one instead")
    parser.add_argument("--index", required=True, help="folder of python -m timix_jax.embed")
    parser.add_argument("--model", help="a run or a checkpoint; default: the one of the index")
    parser.add_argument("--k", type=int, default=20, help="number of images; default: 20")
    parser.add_argument("--html", default="search.html", help="page to write; empty for none")
    parser.add_argument("--heat", default="", help="score source of the heat maps, or none")
    parser.add_argument(
        "--compile-cache", default="~/.cache/timix_jax/xla", help="folder; empty for none"
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    if bool(args.text and args.text.strip()) == bool(args.image):
        raise UserError('give either a text, such as "a lemon", or --image=FILE')
    if args.html and as_path(args.html).is_dir():
        raise UserError(f"--html {args.html} is a folder: give a file, such as search.html")
    index = EmbeddingIndex(args.index)
    if args.k < 1:
        raise UserError(f"--k {args.k}: give at least 1")
    model = _load(args, index)
    query = model.encode_image(args.image) if args.image else model.encode_text(args.text)
    started = time.monotonic()
    hits = index.nearest(query[0], args.k)
    about = f"{len(index):,} images searched in {time.monotonic() - started:.2f} s; model {model.origin}"
    for number, hit in enumerate(hits, start=1):
        caption = f"  {shown(hit.caption)}" if hit.caption else ""
        print_text(f"{number:>3}  {hit.score:.4f}  {shown(hit.path)}{caption}")
    print_text(about)
    if args.html:
        example = thumbnail(read_image(args.image), args.image) if args.image else ""
        pictures = _pictures(model, hits, args.text or "", args.heat)
        page = render_page(args.text or f"Images like {args.image}", hits, pictures, about, example)
        target = as_path(args.html)
        with reraise_write_errors(UserError, f"--html {target}", "give another file"):
            atomic_write_text(target, page)
        print_text(f"written to {target}")


def _load(args: argparse.Namespace, index: EmbeddingIndex) -> LoadedModel:
    made_with = index.description.get("model", "")
    if not (args.model or made_with):
        raise UserError(f"--index {args.index} does not name its model; give --model")
    if args.compile_cache:
        use_cache(args.compile_cache)
    weights = index.description.get("weights") or None
    model = load_model(args.model or made_with, weights=weights)
    if made_with and model.origin != made_with:
        logging.warning("the index was made with %s, not %s", made_with, model.origin)
    if index.missing_parts:
        logging.warning("%d parts of the index are not written yet", index.missing_parts)
    return model


def _pictures(model: LoadedModel, hits: Sequence[Hit], text: str, source: str) -> list[Picture]:
    """Return the pictures of hits, with heat maps of the text unless there is none."""
    pictures, files = [], []
    for hit in hits:
        try:
            data = read_image(hit.path)
            pictures.append(Picture(thumbnail(data, hit.path)))
            files.append(data)
        except CorruptExample as error:
            pictures.append(Picture("", problem=f"cannot be shown: {error.reason}"))
    if not text or source == "none":
        return pictures
    try:
        maps = iter(model.heatmaps(files, [text] * len(files), source=source))
    except UserError as error:
        if source:
            raise
        logging.warning("no heat maps: %s", error)  # the model has no scores of patches
        return pictures
    return [p._replace(heat=heat_overlay(next(maps))) if p.image else p for p in pictures]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for runtime errors, 2 for problems that the user can fix."""
    return run_command(_run, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
