"""The source `synthetic:`: coloured shapes with true captions and boxes, drawn on demand, no files needed."""

from typing import NamedTuple

import cv2
import numpy as np

from timix_jax.data.records.annotated import key_hash, select_annotated
from timix_jax.data.records.schema import Record, Region
from timix_jax.errors import UserError

_COLORS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 89, 196),
    "yellow": (240, 200, 20),
    "purple": (148, 60, 189),
    "orange": (255, 127, 14),
    "black": (20, 20, 20),
    "pink": (240, 130, 190),
}
_SHAPES = ("square", "disc", "triangle", "cross", "ring")
_PLACES = ("above", "below", "left of", "right of")
_OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


class _Shape(NamedTuple):
    color: str
    shape: str
    box: tuple[int, int, int, int]  # x, y, width, height in pixels

    @property
    def text(self) -> str:
        article = "an" if self.color[0] in "aeiou" else "a"
        return f"{article} {self.color} {self.shape}"


class SyntheticSource:
    """Two shapes on a light background per image; see `open_synthetic`."""

    def __init__(
        self, *, examples: int, size: int, captions: int, regions: int, annotated: float, seed: int
    ):
        if examples < 1 or size < 16 or captions < 1 or regions not in (0, 1, 2) or seed < 0:
            raise UserError(
                f"synthetic source examples={examples} size={size} captions={captions} regions={regions} "
                f"seed={seed}: needs examples >= 1, size >= 16, captions >= 1, regions 0 to 2, seed >= 0"
            )
        self.name = f"synthetic:?examples={examples}&size={size}&seed={seed}"
        self._examples, self._size, self._captions = examples, size, captions
        self._regions, self._seed = regions, seed
        rows = [(index, key_hash(self._key(index))) for index in range(examples if regions else 0)]
        self._annotated = select_annotated(np.array(rows, np.int64).reshape(-1, 2), annotated)

    def _key(self, index: int) -> str:
        return f"synthetic-{self._seed}-{index:06d}"

    def __len__(self) -> int:
        return self._examples

    @property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees."""
        return self._annotated

    def __getitem__(self, index: int) -> Record:
        """Record `index`, the same on every call."""
        if not 0 <= index < self._examples:
            raise IndexError(f"{self.name}: index {index} of {self._examples}")
        rng = np.random.default_rng((self._seed, index))
        first, second, place = _arrange(rng, self._size)
        pixels = np.full((self._size, self._size, 3), rng.integers(200, 256, 3), np.uint8)
        for shape in (first, second):
            _draw(pixels, shape)
        texts = [
            f"{first.text} {place} {second.text}",
            f"{second.text} {_OPPOSITE[place]} {first.text}",
            f"{first.text} and {second.text}",
        ]
        captions = tuple(texts[i % len(texts)] for i in range(self._captions))
        regions = tuple(
            Region(shape.text, shape.box, tuple(range(self._captions)))
            for shape in (first, second)[: self._regions]
        )
        # Every fourth image is a JPEG, so that both decoders are exercised.
        suffix = ".jpg" if index % 4 == 3 else ".png"
        _, encoded = cv2.imencode(suffix, pixels[..., ::-1])
        return Record(self._key(index), encoded.tobytes(), captions, regions)


def _arrange(rng: np.random.Generator, size: int) -> tuple[_Shape, _Shape, str]:
    """Return two different shapes and the first one's position relative to the second."""
    half = size // 2
    place = _PLACES[rng.integers(len(_PLACES))]
    first_half = {"above": (0, 0), "left of": (0, 0), "below": (0, half), "right of": (half, 0)}
    second_half = {"above": (0, half), "left of": (half, 0), "below": (0, 0), "right of": (0, 0)}
    colors = rng.choice(list(_COLORS), 2, replace=False)
    shapes = rng.choice(_SHAPES, 2, replace=False)
    placed = []
    for color, shape, (x, y) in zip(
        colors, shapes, (first_half[place], second_half[place]), strict=True
    ):
        side = int(rng.integers(size // 4, half))
        free_x = (half if place in ("left of", "right of") else size) - side
        free_y = (half if place in ("above", "below") else size) - side
        x += int(rng.integers(free_x + 1))
        y += int(rng.integers(free_y + 1))
        placed.append(_Shape(str(color), str(shape), (x, y, side, side)))
    return placed[0], placed[1], place


def _draw(pixels: np.ndarray, shape: _Shape) -> None:
    """Draw a shape that touches all four sides of its box."""
    x, y, side, _ = shape.box
    grid = (np.arange(side) + 0.5) / side * 2 - 1
    u, v = np.meshgrid(grid, grid)
    radius = np.hypot(u, v)
    inside = {
        "square": np.ones_like(u, bool),
        "disc": radius <= 1,
        "ring": (radius <= 1) & (radius >= 0.55),
        "triangle": np.abs(u) <= (v + 1) / 2 + 1 / side,
        "cross": np.minimum(np.abs(u), np.abs(v)) <= 0.35,
    }[shape.shape]
    pixels[y : y + side, x : x + side][inside] = _COLORS[shape.color]


def open_synthetic(
    argument: str = "",
    *,
    examples: int = 1024,
    size: int = 64,
    captions: int = 1,
    regions: int = 0,
    annotated: float = 1.0,
    seed: int = 0,
) -> SyntheticSource:
    """Open `synthetic:?examples=…`: "a red square above a blue disc".

    Args:
      argument: must be empty; present for the source registry.
      examples: number of examples.
      size: side of the square images in pixels.
      captions: captions per image; the second one describes the same from the other shape's side.
      regions: annotated shapes per image, 0 to 2.
      annotated: share of the examples whose regions the trainer sees.
      seed: 0 or more; determines the examples.

    Raises:
      UserError: a value is out of range.
    """
    if argument:
        raise UserError(
            f"data source 'synthetic:{argument}': takes no argument; write synthetic:?…"
        )
    return SyntheticSource(
        examples=examples,
        size=size,
        captions=captions,
        regions=regions,
        annotated=annotated,
        seed=seed,
    )
