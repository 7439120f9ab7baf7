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
    def folder_below(folder: PurePosixPath) -> PurePosixPath | None:
        for parent in (folder, *folder.parents):
            if os.path.realpath(parent) == root:
                return folder.relative_to(parent)
        return None

    def key(path: str) -> str | None:
        if is_unsafe_path(path.lstrip("/")):
            return None
        if not path.startswith("/"):
            return str(PurePosixPath(path))
        absolute = PurePosixPath("/", path.lstrip("/"))
        folder = folder_below(absolute.parent)
        return None if folder is None else str(folder / absolute.name)

    return key
