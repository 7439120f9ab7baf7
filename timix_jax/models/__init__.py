"""Models as pure functions over parameter trees, and the registry that names them; Flax stays inside this package."""

from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.protocols import ImageTextModel

__all__ = ["MODELS"]

MODELS: dict[str, type[ImageTextModel]] = {"dual_encoder": DualEncoder}
