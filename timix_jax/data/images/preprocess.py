"""From a decoded image to the square that an image tower reads: this project's way, or that of published weights."""

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from timix_jax.data.images.transforms import resize

Filter = Literal["", "bilinear", "bicubic"]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preprocess(NamedTuple):
    """How an image becomes a square.

    Attributes:
      filter: empty for `transforms.resize`, as this project trains; else Pillow's filter, which published weights
        were trained with.
      crop: the shortest side is resized and the centre cut out (CLIP); otherwise the whole image is squeezed.
      zoom: with `crop`, the shortest side as a multiple of the square's: 256/224 for DeiT.

    **Example:** `Preprocess("bicubic", crop=True)(pixels, 224)`  # uint8 (H, W, 3) → (224, 224, 3)
    """

    filter: Filter = ""
    crop: bool = False
    zoom: float = 1.0

    @property
    def reads_reduced(self) -> bool:
        """True if a JPEG may be decoded at a fraction of its size, as the input pipeline does."""
        return not self.filter

    def __call__(self, image: np.ndarray, size: int) -> np.ndarray:
        """Map uint8 (H, W, 3) to uint8 (size, size, 3)."""
        if not self.filter:
            return resize(image, size, size)
        height, width = image.shape[:2]
        if not self.crop:
            return _resized(image, (size, size), self.filter)
        short = round(size * self.zoom)
        # Rounded as torchvision does.
        shape = int(short * height / min(height, width)), int(short * width / min(height, width))
        whole = _resized(image, shape, self.filter)
        top, left = (round((side - size) / 2) for side in shape)
        return np.ascontiguousarray(whole[top : top + size, left : left + size])


def _resized(image: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize(shape[::-1], _FILTERS[name]))
