"""Exact search in the folders of embeddings that `timix_jax.embed` and clip-retrieval write."""

from __future__ import annotations

import bisect
import heapq
import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from etils import epath

from timix_jax.embed.layout import read_index
from timix_jax.errors import UserError
from timix_jax.runtime.machine import available_cores
from timix_jax.runtime.remote import as_path, local_only

_BLOCK = 1 << 15  # rows per product; 64 MB at a width of 512


class Hit(NamedTuple):
    """An image that was found: its cosine with the query, its row, its path and its caption."""

    score: float
    row: int
    path: str
    caption: str | None


class EmbeddingIndex:
    """The embeddings of images in a folder, read as far as a search needs them.

    Args:
      folder: has `img_emb/img_emb_*.npy` and `metadata/metadata_*.parquet`, part by part.

    Attributes:
      description: contents of index.json; empty for a folder of another program.
      embed_dim: D, the width of the embeddings.

    Raises:
      UserError: the folder holds no embeddings, or its files do not fit together.

    **Example:** `EmbeddingIndex("photos_emb").nearest(model.encode_text("a lemon")[0], k=20)`
    """

    def __init__(self, folder: epath.PathLike) -> None:
        local_only(folder, "--index", "copy or mount it")
        self._folder = as_path(folder)
        self.description: dict[str, Any] = {}
        if (self._folder / "index.json").exists():
            self.description = read_index(self._folder)
        # A part without metadata is being written.
        self._parts = [p for p in self._numbered("img_emb", "npy") if self._metadata(p).exists()]
        if not self._parts:
            raise UserError(
                f"--index {folder} holds no embeddings of images; make some by python -m timix_jax.embed"
            )
        self._arrays = [_mapped(self._folder / "img_emb" / f"img_emb_{p}.npy") for p in self._parts]
        widths = {array.shape[1] for array in self._arrays}
        if len(widths) > 1:
            raise UserError(
                f"--index {folder}: its parts have widths {sorted(widths)}; make it again"
            )
        (self.embed_dim,) = widths
        self._starts = [0, *itertools.accumulate(len(array) for array in self._arrays)]

    def __len__(self) -> int:
        """Number of images."""
        return self._starts[-1]

    @property
    def missing_parts(self) -> int:
        """Number of parts that are not written yet."""
        return max(0, int(self.description.get("parts", 0)) - len(self._parts))

    def nearest(self, query: np.ndarray, k: int) -> list[Hit]:
        """Return the `k` images with the largest cosines, best first; equal ones in the order of rows.

        Args:
          query: float32 (D,), of length 1.
          k: at least 1; all images if there are fewer.
        """
        if query.shape != (self.embed_dim,):
            raise UserError(
                f"the model embeds in {query.shape[-1]} dimensions, the index in {self.embed_dim}: give the --model"
                " that made the index"
            )
        if k < 1:
            raise UserError(f"--k {k}: give at least 1")
        query = np.ascontiguousarray(query, np.float32)
        with ThreadPoolExecutor(available_cores()) as pool:  # NumPy releases the lock
            found = pool.map(lambda block: _best(block, query, k), self._blocks())
            best = heapq.nsmallest(k, itertools.chain.from_iterable(found))
        rows = [row for _, row in best]
        named = self._named(rows)
        return [Hit(-negative, row, *named[row]) for negative, row in best]

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield parts of the embeddings (b, D), each with the number of its first row."""
        for start, array in zip(self._starts, self._arrays, strict=False):
            for first in range(0, len(array), _BLOCK):
                yield start + first, array[first : first + _BLOCK]

    def _named(self, rows: Sequence[int]) -> dict[int, tuple[str, str | None]]:
        """Return path and caption of rows; only the parts that they lie in are read."""
        by_part: dict[int, list[int]] = {}
        for row in rows:
            by_part.setdefault(bisect.bisect_right(self._starts, row) - 1, []).append(row)
        named: dict[int, tuple[str, str | None]] = {}
        for number, own in by_part.items():
            file = self._metadata(self._parts[number])
            try:
                table = pq.read_table(file)
                paths, size = table["image_path"], len(table)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(
                    f"{file} cannot be read ({_one_line(error)}); make it again"
                ) from error
            if size != len(self._arrays[number]):
                raise UserError(
                    f"{file} has {size} rows and its embeddings {len(self._arrays[number])}; make both again"
                )
            captions = table["caption"] if "caption" in table.column_names else None
            for row in own:
                place = row - self._starts[number]
                caption = captions[place].as_py() if captions is not None else None
                named[row] = paths[place].as_py(), caption
        return named

    def _numbered(self, kind: str, suffix: str) -> list[str]:
        """Return the numbers of the parts, as written, in their order."""
        pattern = re.compile(rf"{kind}_(\d+)\.{suffix}")
        folder = self._folder / kind
        if not folder.is_dir():
            return []
        names = (pattern.fullmatch(path.name) for path in folder.iterdir())
        return sorted((match[1] for match in names if match), key=int)

    def _metadata(self, part: str) -> epath.Path:
        return self._folder / "metadata" / f"metadata_{part}.parquet"


def _best(block: tuple[int, np.ndarray], query: np.ndarray, k: int) -> list[tuple[float, int]]:
    """Return (−cosine, row) of the best rows of a block."""
    start, rows = block
    # Not `@`: OpenBLAS starts threads of its own in each of ours, which takes three times as long.
    scores = np.einsum("nd,d->n", rows.astype(np.float32, copy=False), query)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    if len(scores) > k:
        # All that equal the last of them stay, so that ties do not depend on blocks.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    return [(-float(scores[index]), start + int(index)) for index in chosen]


def _mapped(path: epath.Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({_one_line(error)}); make it again") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(
            f"{path} holds {array.dtype} {array.shape}, not embeddings (n, D); make it again"
        )
    return array


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
