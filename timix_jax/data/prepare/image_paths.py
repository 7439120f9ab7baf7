"""Paths of images in the data, and the keys that they become."""

import functools
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from timix_jax.data.prepare.tasks import is_unsafe_path


def key_below(images: Path) -> Callable[[str], str | None]:
    """Return a function from a path to its key: the path below the image folder, None if it lies outside.

    Absolute paths may reach the folder through symbolic links; `..` is refused everywhere.
    """
    root = os.path.realpath(images)

    @functools.cache  # many paths share a few folders
    def is_root(folder: PurePosixPath) -> bool:
        return os.path.realpath(folder) == root

    def key(path: str) -> str | None:
        if is_unsafe_path(path.lstrip("/")):
            return None
        if not path.startswith("/"):
            return str(PurePosixPath(path))
        absolute = PurePosixPath("/", path.lstrip("/"))
        folder = next(filter(is_root, absolute.parents), None)
        return None if folder is None else str(absolute.relative_to(folder))

    return key
