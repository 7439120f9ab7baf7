"""The settings of a trained model, from the configuration that its checkpoint holds."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from timix_jax.training.build.settings import Settings, read_settings

# Besides `model.*`, the fields that say what a model computes and how it is evaluated. Fields of the
# training itself, such as its data and mixer, do not matter, so that they may be unknown here.
_READ = (
    *("contrastive.loss", "loss.pta.weight", "loss.cmc.weight"),
    *("optim.ema", "eval.batch_size", "eval.weights"),
)


def stored_settings(stored: Mapping[str, Any]) -> Settings:
    """Return the settings of a stored model; the groups of its training keep their defaults.

    Args:
      stored: dotted field name → value, as the metadata of a checkpoint hold it.

    Raises:
      UserError: the model is not registered in this process, or has fields that this version lacks.

    **Example:** `model = build_model(stored_settings(read_meta(step)["config"]), vocab_size=8000, pad_id=0)`
    """
    name = stored.get("model.name", "dual_encoder")
    fields = {field: value for field, value in stored.items() if _matters(field, name)}
    nested: dict[str, Any] = {}
    for field, value in fields.items():
        *groups, last = field.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return read_settings(ConfigDict(nested))


def _matters(field: str, name: str) -> bool:
    """Return True unless the field belongs to the training, or to another model."""
    if field.startswith("model.options."):
        return field.startswith(f"model.options.{name}.")
    return field.startswith("model.") or field in _READ
