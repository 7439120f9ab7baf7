"""Backgrounds of the scenes: random colours in one of five patterns."""

import cv2
import numpy as np


def plain(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """One colour."""
    return np.broadcast_to(colours[0], (size, size, 3))


def shaded(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """A gradient from one colour to the other in a random direction."""
    along = _positions_along_direction(rng, size)
    along = (along - along.min()) / (along.max() - along.min())
    return _blend(along, colours)


def striped(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """Stripes of two colours in a random direction, two to eight of each."""
    return _blend(_soft_square(_positions_along_direction(rng, size) * rng.uniform(2, 8)), colours)


def checkered(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """A checkerboard with two to six squares of each colour per side."""
    across = _soft_square(np.arange(size) / size * rng.uniform(2, 6) + rng.uniform())
    return _blend(np.abs(across[:, None] - across), colours)


def blotched(rng: np.random.Generator, size: int, colours: np.ndarray) -> np.ndarray:
    """Smooth blotches between two colours."""
    cells = int(rng.integers(3, 9))
    noise = rng.random((cells, cells), np.float32)
    smooth = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return _blend(smooth.clip(0, 1), colours)


PATTERNS = (plain, shaded, striped, checkered, blotched)


def draw_background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
    """Draw a random background.

    Args:
      rng: the scene's generator.
      size: side in pixels.

    Returns:
      float32 (size, size, 3) with values 0–255, and the pattern's adjective ("striped").
    """
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    first = rng.uniform(0, 255, 3)
    # The second colour is moved towards the first, so that patterns do not outshine the drawings.
    second = first + rng.uniform(0.2, 0.7) * (rng.uniform(0, 255, 3) - first)
    pixels = pattern(rng, size, np.stack([first, second]).astype(np.float32))
    return np.array(pixels, np.float32, order="C"), pattern.__name__


def _positions_along_direction(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return positions along a random direction, float (size, size) in canvas sides, random origin."""
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.arange(size) / size
    return steps * np.cos(angle) + steps[:, None] * np.sin(angle) + rng.uniform()


def _soft_square(phase: np.ndarray) -> np.ndarray:
    """Return a square wave of period 1 between 0 and 1 with anti-aliased edges."""
    return (0.5 + 4 * np.sin(2 * np.pi * phase)).clip(0, 1)


def _blend(weight: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Mix two colours, float32 (size, size, 3): weight 0 is the first, 1 the second."""
    return colours[0] + weight[..., None].astype(np.float32) * (colours[1] - colours[0])
