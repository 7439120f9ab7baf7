"""Compare model settings with those that weights were trained with: matching shapes do not prove a match."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from etils import epath

from timix_jax import checkpointing
from timix_jax.errors import UserError
from timix_jax.models import contains_towers
from timix_jax.runtime.workdir import config_differences

# Model settings that leave the features of whole images and captions unchanged up to rounding.
FREE_SETTINGS = (
    "model.scan",
    "model.remat",
    "model.dtype",
    "model.temperature",
    "model.temperature_range",
    "model.logit_bias",
    "model.image.patch_dropout",
    "model.text.dropout",
)
# Position embeddings are interpolated; projections to another space start fresh.
_ADAPTED = ("model.image.size", "model.embed_dim")


def shares_towers(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return True for two models of different names that contain the same towers, such as ALBEF and a dual encoder.

    Either can start from the other: what only one of them has stays fresh, or is not used.
    """
    names = [fields.get("model.name", "dual_encoder") for fields in (stored, given)]
    return names[0] != names[1] and all(contains_towers(name) for name in names)


def check_same_model(
    path: epath.Path,
    config: Mapping[str, Any],
    *,
    to_train: bool,
    part: str = "",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Refuse model settings other than those that a checkpoint's weights were trained with.

    Args:
      path: a step folder.
      config: this run's, flat.
      to_train: the weights initialise another training, which may have another image size, another `embed_dim`,
        and another `tpp_layer` if the weights come without a trained patch predictor.
      part: `image` or `text`, if only that tower is used; empty for the whole model.
      defaults: of all fields, for those that are newer than the checkpoint; without one, any value may be given.

    Raises:
      UserError: names the fields that differ.
    """
    prefixes = (f"model.{part}.", "model.name", "model.act") if part else ("model.",)
    there = checkpointing.read_meta(path).get("config", {})
    stored, given = (
        {name: value for name, value in fields.items() if name.startswith(prefixes)}
        for fields in (there, config)
    )
    newer = given.keys() - stored.keys() - defaults.keys()
    ignore = [*FREE_SETTINGS, *newer]
    if to_train and shares_towers(there, config):
        ignore += ["model.name", "model.options"]
    if to_train:
        ignore += _ADAPTED
        ignore += [] if there.get("loss.pta.weight", 1) else ["model.tpp_layer"]
    if differences := config_differences(stored, given, tuple(ignore), defaults):
        raise UserError(
            f"{path} was trained with other settings (config.{'; config.'.join(differences)}): give"
            " --config and its fields as the run had them"
        )
