"""Scenes: the plan (what is drawn and named) and the rendering (where)."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from timix_jax.data.emoji.backgrounds import draw_background
from timix_jax.errors import UserError

_MIN_VISIBLE = 0.7  # share of a drawing's pixels that later drawings must leave uncovered
_COVER = 1.1  # drawings of the largest size, as squares, cover at most this much of the canvas
_TRIES = 24  # places tried per drawing before the scene is started again
_SHRINK = 0.94  # applied to the sizes at every restart, so that it ends


# Share of the scenes by number of drawings: like web images, most show few things.
_DRAWINGS_SHARES = {2: 0.4, 3: 0.3, 4: 0.2, 5: 0.1}


@dataclasses.dataclass(frozen=True)
class Look:
    """Geometry of the scenes.

    Attributes:
      canvas: side of the image in pixels.
      min_size: longer side of the smallest drawing, as a fraction of the canvas side; if the
        drawings do not fit, the scene is started again with all of them 6% smaller.
      max_size: longer side of the largest drawing; scenes of many drawings have smaller ones.
      rotation: largest rotation in either direction, in degrees.
      on_canvas: smallest share of a drawing that lies on the canvas. With 1, places are uniform over those where the
        whole drawing fits, so that the centre of the canvas is covered far more often than its border. Below 1,
        drawings may stick out and more of them lie near the border: the centre is covered hardly more often.
    """

    canvas: int = 64
    min_size: float = 0.34
    max_size: float = 0.55
    rotation: float = 30.0
    on_canvas: float = 1.0

    def __post_init__(self) -> None:
        if not 16 <= self.canvas <= 1024:
            raise UserError(f"canvas={self.canvas}: side in pixels, must be 16 to 1024")
        if not 0.1 <= self.min_size <= self.max_size <= 0.6:
            raise UserError(
                f"min_size={self.min_size:g}, max_size={self.max_size:g}: fractions of the canvas, "
                "must be 0.1 <= min_size <= max_size <= 0.6"
            )
        if not 0 <= self.rotation <= 180:
            raise UserError(f"rotation={self.rotation:g}: degrees, must be 0 to 180")
        if not 0.3 <= self.on_canvas <= 1:
            raise UserError(
                f"on_canvas={self.on_canvas:g}: share of a drawing that lies on the canvas, must be 0.3 to 1"
            )


class Plan(NamedTuple):
    """The contents of a scene.

    Attributes:
      concepts: concept of each drawing; one of them may occur twice.
      vendors: vendor of each drawing.
      named: the concepts that the captions name, each once.
    """

    concepts: tuple[int, ...]
    vendors: tuple[int, ...]
    named: tuple[int, ...]


class Scene(NamedTuple):
    """A rendered scene.

    Attributes:
      image: uint8 (canvas, canvas, 3) red, green, blue.
      boxes: int (drawings, 4) x, y, width, height in pixels of the visible part of each drawing.
      background: adjective of the background.
    """

    image: np.ndarray
    boxes: np.ndarray
    background: str


def plan_scene(
    rng: np.random.Generator,
    nameable: Sequence[int],
    clutter: Sequence[int],
    vendors: Sequence[int],
    *,
    min_drawings: int = 2,
) -> Plan:
    """Draw the contents of a scene at random: 2–5 drawings, of which the captions name some.

    With two drawings, one concept is named (which may be both drawings); with more, two or three.

    Args:
      rng: the scene's generator.
      nameable: concepts that may be named.
      clutter: concepts that may appear unnamed.
      vendors: vendors whose drawings are used.
      min_drawings: 3 excludes the scenes that name a single concept.

    Returns:
      The plan, with drawings in random order, which is the order of painting.
    """
    shares = np.array([_DRAWINGS_SHARES[n] for n in range(min_drawings, 6)])
    drawings = int(rng.choice(np.arange(min_drawings, 6), p=shares / shares.sum()))
    twice = rng.random() < (0.5 if drawings == 2 else 0.25)
    distinct = drawings - twice
    # At least one concept stays unnamed, unless too few would be named: at least one of two
    # drawings, two of more.
    most = max(distinct - 1, 1 if drawings == 2 else 2)
    named = rng.choice(nameable, min(most, int(rng.integers(2, 4))), replace=False)
    rest = [c for c in rng.choice(clutter, distinct + len(named), replace=False) if c not in named]
    shown = [*named, *rest][:distinct]
    if twice:
        shown.append(shown[rng.integers(distinct)])
    concepts = rng.permutation(shown)
    return Plan(
        tuple(concepts.tolist()),
        tuple(rng.choice(vendors, drawings).tolist()),
        tuple(named.tolist()),
    )


def render_scene(rng: np.random.Generator, drawings: Sequence[np.ndarray], look: Look) -> Scene:
    """Paint drawings at random places, sizes and rotations on a random background.

    Args:
      rng: the scene's generator.
      drawings: uint8 (h, w, 4) with premultiplied colours, in painting order.
      look: the geometry.

    Returns:
      The scene; other drawings hide at most 30% of what lies on the canvas of each.
    """
    pixels, background = draw_background(rng, look.canvas)
    largest = max(look.min_size, min(look.max_size, (_COVER / len(drawings)) ** 0.5))
    sizes = rng.uniform(look.min_size, largest, len(drawings)) * look.canvas
    angles = rng.uniform(-look.rotation, look.rotation, len(drawings))
    while True:
        patches = [_scale_and_rotate(*each) for each in zip(drawings, sizes, angles, strict=True)]
        placed = _place_patches(rng, patches, look.canvas, look.on_canvas)
        if placed is not None:
            break
        sizes = sizes * _SHRINK
    patches, corners, owner = placed
    for patch, (x, y) in zip(patches, corners, strict=True):
        part = pixels[y : y + patch.shape[0], x : x + patch.shape[1]]
        part *= 1 - patch[..., 3:] * np.float32(1 / 255)
        part += patch[..., :3]
    boxes = np.array(
        [
            _visible_box(patch, corner, owner, index)
            for index, (patch, corner) in enumerate(zip(patches, corners, strict=True))
        ]
    )
    return Scene((pixels + 0.5).clip(0, 255).astype(np.uint8), boxes, background)


def _scale_and_rotate(drawing: np.ndarray, size: float, angle: float) -> np.ndarray:
    """Scale a drawing to a longer side of `size` pixels and rotate it, uint8 (h', w', 4)."""
    height, width = drawing.shape[:2]
    # Drawn at twice the size and averaged down, because bilinear interpolation would alias.
    matrix = cv2.getRotationMatrix2D(
        ((width - 1) / 2, (height - 1) / 2), angle, 2 * size / max(height, width)
    )
    out_width, out_height = (np.abs(matrix[:, :2]) @ (width, height) / 2 + 1).astype(int)
    matrix[:, 2] += out_width - width / 2, out_height - height / 2
    large = cv2.warpAffine(drawing, matrix, (2 * out_width, 2 * out_height))
    return cv2.resize(large, (out_width, out_height), interpolation=cv2.INTER_AREA)


def _place_patches(
    rng: np.random.Generator, patches: Sequence[np.ndarray], canvas: int, on_canvas: float
) -> tuple[list[np.ndarray], list[tuple[int, int]], np.ndarray] | None:
    """Find a place for each patch that leaves enough of it on the canvas and of those below it visible.

    Returns:
      The parts of the patches that lie on the canvas, their corners (x, y), and int8 (canvas, canvas) the topmost patch
      at each pixel (−1: none); None if a patch does not fit.
    """
    owner = np.full((canvas, canvas), -1, np.int8)
    spare = np.zeros(len(patches))  # how many more pixels of each patch may be covered
    parts: list[np.ndarray] = []
    corners: list[tuple[int, int]] = []
    for index, patch in enumerate(patches):
        # Relative to the drawing's strongest alpha, so that translucent drawings are not empty.
        solid = patch[..., 3] >= patch[..., 3].max() / 2
        height, width = solid.shape
        if max(height, width) > canvas:
            return None
        outside_x, outside_y = (int(side * (1 - on_canvas)) for side in (width, height))
        xs = _draw_places(rng, -outside_x, canvas - width + outside_x, on_canvas < 1)
        ys = _draw_places(rng, -outside_y, canvas - height + outside_y, on_canvas < 1)
        needed = on_canvas * np.count_nonzero(solid)
        for x, y in zip(xs, ys, strict=True):
            inside = (
                slice(max(-y, 0), min(height, canvas - y)),
                slice(max(-x, 0), min(width, canvas - x)),
            )
            shown = solid[inside]
            area = np.count_nonzero(shown)
            if area < needed:
                continue
            part = owner[max(y, 0) : y + height, max(x, 0) : x + width]
            lost = np.bincount(part[shown] + 1, minlength=len(patches) + 1)[1:]
            if (lost[:index] <= spare[:index]).all():
                break
        else:
            return None
        spare -= lost
        spare[index] = (1 - _MIN_VISIBLE) * area
        part[shown] = index
        parts.append(patch[inside])
        corners.append((max(x, 0), max(y, 0)))
    return parts, corners, owner


def _draw_places(rng: np.random.Generator, first: int, last: int, spread: bool) -> list[int]:
    """Draw coordinates from first … last: uniformly, or with `spread` more of them near both ends (arcsine law)."""
    if not spread:
        return rng.integers(first, last + 1, size=_TRIES).tolist()
    share = rng.beta(0.5, 0.5, size=_TRIES)
    return np.floor(np.minimum(first + share * (last - first + 1), last)).astype(int).tolist()


def _visible_box(
    patch: np.ndarray, corner: tuple[int, int], owner: np.ndarray, index: int
) -> tuple[int, int, int, int]:
    """Return x, y, width, height of the visible part of a patch, thin lines included."""
    alpha = patch[..., 3]
    left, top = corner
    part = owner[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    mask = (alpha >= alpha.max() / 4) & (part <= index)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return left + x, top + y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
