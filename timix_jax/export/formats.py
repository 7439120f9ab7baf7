"""The formats by name; a new one is a module with `export(trained, target)` and a line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from timix_jax.export import big_vision, huggingface, open_clip
from timix_jax.export.folder import Exported
from timix_jax.export.trained import Trained

LAYOUTS: Mapping[str, Callable[[Trained, Path], Exported]] = MappingProxyType(
    {"open_clip": open_clip.export, "hf": huggingface.export, "npz": big_vision.export}
)
"""Formats of weights that this project reads again."""

JAX = "jax"
"""The format of programs, for every model."""
