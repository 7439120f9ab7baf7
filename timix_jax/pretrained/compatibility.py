"""Whether weights were trained with these settings of the model: many fit the shapes of others too."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from timix_jax import checkpointing
from timix_jax.errors import UserError
from timix_jax.runtime.workdir import config_differences

# Settings of the model that change nothing in the features of whole images and captions, or only their rounding.
NOT_OF_THE_WEIGHTS = (
    "model.scan",
    "model.remat",
    "model.dtype",
    "model.temperature",
    "model.temperature_range",
    "model.logit_bias",
    "model.image.patch_dropout",
)
_FITTED = ("model.image.size",)  # position embeddings are fitted to another grid


def check_same_model(path: epath.Path, config: Mapping[str, Any], *, to_train: bool) -> None:
    """Refuses settings that fit the shapes of a checkpoint's weights and are not those that they were trained with.

    Args:
      path: a step folder.
      config: flat, of this run.
      to_train: whether the weights are the beginning of another run, which may have another image size, and another
        `tpp_layer` where they come without a trained patch predictor.

    Raises:
      UserError: names the fields that differ.
    """
    there = checkpointing.read_meta(path).get("config", {})
    stored, given = (
        {name: value for name, value in fields.items() if name.startswith("model.")}
        for fields in (there, config)
    )
    ignore = [*NOT_OF_THE_WEIGHTS, *(given.keys() - stored.keys())]  # or newer than the checkpoint
    if to_train:
        ignore += _FITTED
        ignore += [] if there.get("loss.pta.weight", 1) else ["model.tpp_layer"]
    if differences := config_differences(stored, given, tuple(ignore)):
        raise UserError(
            f"{path} was trained with other settings (config.{'; config.'.join(differences)}): give"
            " --config and its fields as the run had them"
        )
