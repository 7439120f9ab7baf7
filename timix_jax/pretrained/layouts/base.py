"""What a reader of a layout returns, and what readers share."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

from timix_jax.errors import UserError
from timix_jax.pretrained.leaves import Leaf, Leaves
from timix_jax.pretrained.pixels import Pixels
from timix_jax.pretrained.weight_files import Shape, WeightFiles


class Unstated:
    """Stands for a setting that neither the arrays nor a configuration file say."""


UNSTATED = Unstated()


class Shapes(dict[str, Shape]):
    """Name → shape of a file's arrays; a UserError names one that is missing."""

    def __missing__(self, name: str) -> Shape:
        raise UserError(f"lacks the array {name}; fetch the file again, or another one")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file of weights holds, in our terms; nothing is read yet.

    Attributes:
      settings: field of the configuration → the value that these weights were trained with, or `UNSTATED`.
      image, text: path in the tower → how to make the parameter; empty without that tower.
      scalars: what belongs to no tower: `log_temperature`, `logit_bias`.
      pixels: how pixels were normalised; None without an image tower.
      unread: regular expression of names that towers do not need, such as other heads.
      scopes: beginnings of the towers' names: any other name there would belong to a tower that ours cannot express.
      notes: one line each about what the user should know.
    """

    settings: Mapping[str, Any]
    image: Leaves = dataclasses.field(default_factory=dict)
    text: Leaves = dataclasses.field(default_factory=dict)
    scalars: Leaves = dataclasses.field(default_factory=dict)
    pixels: Pixels | Unstated | None = None
    unread: str = r"$^"
    scopes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Layout(Protocol):
    """A reader of one layout, a module with these names.

    **Example:** `TITLE = "Hugging Face BERT"`, `recognises(shapes)`, `read(files, shapes, run)`
    """

    TITLE: str

    def recognises(self, shapes: Mapping[str, Shape]) -> bool:
        """Return True if these are the names of the layout."""
        ...

    def read(self, files: WeightFiles, shapes: Shapes, run: Mapping[str, Any]) -> Contents:
        """Describe the contents.

        Args:
          files: to read configuration files from.
          shapes: of all arrays.
          run: settings of the run, which count where the weights state none.

        Raises:
          UserError: an array is missing, or the architecture cannot be expressed.
        """
        ...


def stated_or_given(value: Any, run: Mapping[str, Any], field: str) -> Any:
    """Return the value that weights state, or the run's if they state none.

    Raises:
      UserError: neither does.
    """
    if value is not UNSTATED:
        return value
    if field not in run:
        raise UserError(f"has no configuration file that states {field}: give it")
    return run[field]


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


def activation_name(name: Any, place: str) -> str:
    """Return our name of an activation that `place` states.

    Raises:
      UserError: our towers have no such activation.
    """
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted(set(_ACTIVATIONS.values())))
        raise UserError(f"{place} states the activation {name!r}; the towers have {known}")
    return _ACTIVATIONS[name]


def image_shape(kernel: Shape, patches: int) -> dict[str, int]:
    """Return the settings that follow from the shape (C, 3, P, P) of a patch convolution and the number of patches."""
    width, _, patch, _ = kernel
    grid = math.isqrt(patches)
    if grid * grid != patches:
        raise UserError(f"positions of {patches} patches are not a square grid")
    return {
        "model.image.size": grid * patch,
        "model.image.patch": patch,
        "model.image.width": width,
    }


def position_leaves(cls: Leaf, table: str) -> Leaves:
    """Return [CLS] and positions of a ViT whose table (1, N+1, C) or (N+1, C) starts with the position of [CLS].

    Ours has no position for [CLS], so that it is added to the token itself.
    """
    rows = lambda positions: positions.reshape(-1, positions.shape[-1])
    return {
        "cls": Leaf(
            (*cls.names, table), lambda token, p: (token.reshape(-1) + rows(p)[0])[None, None]
        ),
        "pos_embed": Leaf((table,), lambda p: rows(p)[None, 1:]),
    }


def pair_scalars(shapes: Mapping[str, Shape], scale: str, bias: str) -> Leaves:
    """Return τ = exp(−scale) and the bias of the logits, as far as the file has them."""
    leaves = {}
    if scale in shapes:
        leaves["log_temperature"] = Leaf((scale,), lambda value: -value.reshape(()))
    if bias in shapes:
        leaves["logit_bias"] = Leaf((bias,), lambda value: value.reshape(()))
    return leaves
