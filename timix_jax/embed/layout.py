"""The files of a folder of embeddings."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from timix_jax.embed.inputs import Skipped
from timix_jax.errors import RunError, UserError, reraise_write_errors
from timix_jax.runtime.atomic_write import atomic_write_bytes, atomic_write_text
from timix_jax.runtime.remote import as_path

FORMAT = "timix_jax embeddings"
_INDEX = "index.json"
_SKIPPED = "skipped.jsonl"


class Rows(NamedTuple):
    """The contents of one part, row by row.

    Attributes:
      paths: n paths of images, or of tar files with the member.
      captions: n captions; None for an image without one.
      images: float32 (n, D).
      texts: float32 (n, D), zeros where there is no caption; None if no row has one.
      skipped: what was left out.
    """

    paths: Sequence[str]
    captions: Sequence[str | None]
    images: np.ndarray
    texts: np.ndarray | None
    skipped: Sequence[Skipped]


class EmbeddingFolder:
    """A folder of embeddings in parts; each file appears whole or not at all, and the metadata of a part last.

    Args:
      path: local or gs://.
      parts: number of parts, which says how many digits their names have.
    """

    def __init__(self, path: epath.PathLike, parts: int) -> None:
        self.path, self.parts = as_path(path), parts

    def file(self, kind: str, part: int) -> epath.Path:
        """Return the file of a part; `kind` is img_emb, text_emb, metadata or skipped."""
        suffix = {"metadata": "parquet", "skipped": "jsonl"}.get(kind, "npy")
        digits = len(str(self.parts - 1))
        return self.path / kind / f"{kind}_{part:0{digits}d}.{suffix}"

    def start(self, description: Mapping[str, Any]) -> None:
        """Write what the folder holds, or compare it with what was written by an earlier start or another host.

        Raises:
          UserError: the folder holds embeddings of other images or another model.
        """
        wanted = {"format": FORMAT, "parts": self.parts, **description}
        index = self.path / _INDEX
        if index.exists():
            stored = read_index(self.path)
            changed = [name for name, value in wanted.items() if stored.get(name) != value]
            if changed:
                there, now = stored.get(changed[0]), wanted[changed[0]]
                raise UserError(
                    f"--out {self.path} holds embeddings of other images or another model ({changed[0]}: {there!r} "
                    f"there, {now!r} now): give another folder, or the images and --model as they were"
                )
            return
        with reraise_write_errors(UserError, f"--out {self.path}", "choose another folder"):
            for kind in ("img_emb", "metadata", "skipped"):
                (self.path / kind).mkdir(parents=True, exist_ok=True)
            atomic_write_text(index, json.dumps(wanted, indent=1) + "\n")

    def is_complete(self, part: int) -> bool:
        """Return True if all files of a part are written."""
        return self.file("metadata", part).exists()

    def write(self, part: int, rows: Rows) -> None:
        """Write a part; what a killed process left of it is replaced."""
        with reraise_write_errors(RunError, f"--out {self.path}", "free space; it then continues"):
            atomic_write_bytes(self.file("img_emb", part), _npy(rows.images))
            if rows.texts is not None:
                self.file("text_emb", part).parent.mkdir(exist_ok=True)
                atomic_write_bytes(self.file("text_emb", part), _npy(rows.texts))
            lines = "".join(_json_line(entry) for entry in rows.skipped)
            if lines:
                atomic_write_text(self.file("skipped", part), lines)
            table = pa.table(
                {
                    "image_path": pa.array([printable(path) for path in rows.paths], pa.string()),
                    "caption": pa.array(rows.captions, pa.string()),
                }
            )
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            atomic_write_bytes(self.file("metadata", part), buffer.getvalue())

    def gather_skipped(self) -> list[dict[str, Any]]:
        """Join what was left out of all parts that are complete in one file, in order, and return it."""
        texts = [
            self.file("skipped", part).read_text()
            for part in range(self.parts)
            if self.is_complete(part) and self.file("skipped", part).exists()
        ]
        with reraise_write_errors(RunError, f"--out {self.path}", "free space; it then continues"):
            atomic_write_text(self.path / _SKIPPED, "".join(texts))
        return [json.loads(line) for text in texts for line in text.removesuffix("\n").split("\n")]


def read_index(path: epath.PathLike) -> dict[str, Any]:
    """Return what a folder of embeddings holds.

    Raises:
      UserError: it is not such a folder.
    """
    index = as_path(path) / _INDEX
    try:
        stored = json.loads(index.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} holds no embeddings; make some by python -m timix_jax.embed"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{index} cannot be read ({error})") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise UserError(f"{index} is not of python -m timix_jax.embed; give another folder")
    return stored


def printable(path: str) -> str:
    """Return a path as valid Unicode; bytes that are not UTF-8 become `\\udcff` and the like."""
    return path.encode("utf-8", "backslashreplace").decode()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _json_line(entry: Skipped) -> str:
    return json.dumps(entry._asdict() | {"path": printable(entry.path)}, ensure_ascii=True) + "\n"
