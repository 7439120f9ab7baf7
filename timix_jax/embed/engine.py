"""Embedding of parts, one after another, while threads read ahead."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from timix_jax.data.records.schema import CorruptExample
from timix_jax.embed.inputs import Item, Part, Skipped, read_item
from timix_jax.embed.layout import EmbeddingFolder, Rows
from timix_jax.inference.images import read_pixels
from timix_jax.inference.model import LoadedModel
from timix_jax.inference.read_ahead import map_ahead
from timix_jax.reporting.progress import format_duration

_BATCHES_AHEAD = 3
_REPORT_S = 10.0


class _Loaded(NamedTuple):
    path: str
    caption: str | None
    pixels: np.ndarray


class _Chunk(NamedTuple):
    """What belongs to one batch: its images, what was left out among them, and whether its part ends with it."""

    part: int
    loaded: list[_Loaded]
    skipped: list[Skipped]
    last: bool


def embed_parts(
    model: LoadedModel,
    parts: Sequence[Part],
    own: Sequence[int],
    folder: EmbeddingFolder,
    report: Callable[[str], None],
) -> None:
    """Embed the parts numbered `own` that are not complete yet, and write each as soon as it is.

    Args:
      model: encodes images and captions.
      parts: all parts.
      own: numbers of the parts of this host.
      folder: gets the files.
      report: takes a line of progress now and then.

    Raises:
      RunError: a disk or network fails; parts that are written stay.
    """
    todo = [number for number in own if not folder.is_complete(number)]
    progress = _Progress(parts, todo, report)
    pending: collections.deque[_Chunk] = collections.deque()

    def batches() -> Iterator[np.ndarray]:
        for chunk in _chunks(model, parts, todo):
            pending.append(
                chunk._replace(loaded=[row._replace(pixels=_NONE) for row in chunk.loaded])
            )
            pixels = [row.pixels for row in chunk.loaded]
            yield np.stack(pixels) if pixels else np.zeros((0, *_shape(model)), np.uint8)

    done: list[tuple[_Chunk, np.ndarray]] = []
    for embeddings in model.towers.images(batches()):
        chunk = pending.popleft()
        done.append((chunk, embeddings))
        progress.add(chunk)
        if chunk.last:
            folder.write(chunk.part, _joined(model, done))
            done = []
    progress.finish()


_NONE = np.zeros(0, np.uint8)


def _shape(model: LoadedModel) -> tuple[int, int, int]:
    return model.image_size, model.image_size, 3


def _joined(model: LoadedModel, done: Sequence[tuple[_Chunk, np.ndarray]]) -> Rows:
    rows = [row for chunk, _ in done for row in chunk.loaded]
    captions = [row.caption for row in rows]
    texts = None
    if any(captions):
        texts = np.zeros((len(rows), model.embed_dim), np.float32)
        with_text = [index for index, caption in enumerate(captions) if caption]
        texts[with_text] = model.encode_text([captions[index] or "" for index in with_text])
    return Rows(
        [row.path for row in rows],
        captions,
        np.concatenate([embeddings for _, embeddings in done]),
        texts,
        [entry for chunk, _ in done for entry in chunk.skipped],
    )


def _chunks(model: LoadedModel, parts: Sequence[Part], todo: Sequence[int]) -> Iterator[_Chunk]:
    """Yield the parts in batches; no batch holds images of two parts."""
    size = model.towers.batch_size

    def load(numbered: tuple[int, Item | Skipped | None]) -> tuple[int, _Loaded | Skipped | None]:
        part, item = numbered
        if isinstance(item, Item):
            return part, _load(item, model)
        return part, item

    def items() -> Iterator[tuple[int, Item | Skipped | None]]:
        for part in todo:
            for item in parts[part].items():
                yield part, item
            yield part, None  # its end

    loaded: list[_Loaded] = []
    skipped: list[Skipped] = []
    for part, found in map_ahead(load, items(), _BATCHES_AHEAD * size):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        # A full batch waits for what follows it: it may be the last of its part.
        if found is None or len(loaded) == size:
            yield _Chunk(part, loaded, skipped, last=found is None)
            loaded, skipped = [], []
        if found is not None:
            loaded.append(found)


def _load(item: Item, model: LoadedModel) -> _Loaded | Skipped:
    read = read_item(item)
    if isinstance(read, Skipped):
        return read
    assert read.data is not None
    try:
        pixels = read_pixels(read.data, model.image_size, read.path, preprocess=model.preprocess)
        return _Loaded(read.path, read.caption, pixels)
    except CorruptExample as error:
        return Skipped(read.path, error.reason)
    except MemoryError:
        return Skipped(read.path, "needs more memory than is free")


class _Progress:
    """Images per second, and the time left: by images where their number is known, else by finished parts."""

    def __init__(
        self, parts: Sequence[Part], todo: Sequence[int], report: Callable[[str], None]
    ) -> None:
        self._weights = {number: parts[number].weight for number in todo}
        self._sized = all(parts[number].size is not None for number in todo)
        self._report, self._parts = report, len(todo)
        self._images = self._skipped = self._finished = self._work = 0
        self._started = self._said = time.monotonic()

    def add(self, chunk: _Chunk) -> None:
        """Count a batch."""
        self._images += len(chunk.loaded)
        self._skipped += sum(not entry.embedded for entry in chunk.skipped)
        self._finished += chunk.last
        if self._sized:
            self._work = self._images + self._skipped
        elif chunk.last:
            self._work += self._weights[chunk.part]
        if time.monotonic() - self._said > _REPORT_S:
            self._say()

    def finish(self) -> None:
        """Report the totals, if there was anything to do."""
        if self._parts:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        spent = self._said - self._started
        total = sum(self._weights.values())
        count = f"{self._images + self._skipped:,}" + (f" of {total:,}" if self._sized else "")
        left = spent * (total - self._work) / self._work if self._work else None
        sections = [
            f"{count} images",
            f"part {self._finished} of {self._parts}",
            f"{self._images / max(spent, 1e-9):.0f} img/s",
            f"{self._skipped:,} skipped",
            f"ETA {'unknown' if left is None else format_duration(left)}",
        ]
        self._report(" | ".join(sections))
