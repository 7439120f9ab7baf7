"""What is exported: settings, parameters by name, tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.inference import LoadedModel
from timix_jax.models import TRAINING_PARTS
from timix_jax.parallel.paths import path_names
from timix_jax.pretrained.settings import effective

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model on the host.

    Attributes:
      settings: fields `model.…`.
      params: path (`image/pos_embed`) → array, without what only training needs.
      tokenizer: the one of its texts.
      predictor_trained: True if the patch predictor was trained.

    **Example:** `Trained.of(timix_jax.load("runs/demo")).field("image.pool")`  # "gap"
    """

    settings: Mapping[str, Any]
    params: Mapping[str, Array]
    tokenizer: Tokenizer
    predictor_trained: bool = False

    @classmethod
    def of(cls, model: LoadedModel) -> Trained:
        """Return the loaded model's.

        Raises:
          UserError: it lacks a tower, or holds exported programs.
        """
        model.require_tower("image")
        if not model.settings:
            raise UserError(f"{model.origin} holds exported programs: export the run itself")
        params = {
            name: np.asarray(leaf)
            for name, leaf in path_names(model.params)
            if name.split("/")[0] not in TRAINING_PARTS
        }
        return cls(model.settings, params, model.tokenizer, model.predictor_trained)

    def field(self, name: str) -> Any:
        """Return the value of `config.model.NAME`, an empty one as what it stands for."""
        return effective(self.settings, f"model.{name}")

    def tower(self, name: str) -> dict[str, Array]:
        """Return the parameters of `image`, `text` or another part, by their path in it."""
        return {
            path.removeprefix(f"{name}/"): array
            for path, array in self.params.items()
            if path.startswith(f"{name}/")
        }

    @property
    def logit_scale(self) -> Array:
        """ln(1/τ), a float32 scalar."""
        return -self.params["log_temperature"]

    def heads(self, tower: str) -> int:
        """Return the attention heads of a tower."""
        return int(self.field(f"{tower}.heads"))

    def depth(self, tower: str) -> int:
        """Return the blocks of a tower."""
        return int(self.field(f"{tower}.depth"))
