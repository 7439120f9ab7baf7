"""Complete a recipe with the schema's defaults and check it against typos, wrong types and values out of range."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from timix_jax.config.field_values import converted
from timix_jax.config.schema import default_config
from timix_jax.errors import UserError

# Smallest values of fields that are used late or in several places, and are therefore checked here.
_AT_LEAST = {
    "seed": 0,
    "data.threads": 1,
    "data.processes": -1,
    "data.vocab_size": 64,
    "model.embed_dim": 1,
    "model.image.size": 1,
    "model.image.patch": 1,
    "model.image.width": 1,
    "model.image.depth": 1,
    "model.image.heads": 1,
    "model.image.mlp_dim": 1,
    "model.text.max_tokens": 3,  # [CLS], a word, [SEP]
    "model.text.width": 1,
    "model.text.depth": 1,
    "model.text.heads": 1,
    "model.text.mlp_dim": 1,
    "contrastive.chunk": 1,
    "mix.weight": 0,
    "regions.batch_size": 0,
    "regions.max_regions": 1,
    "regions.max_tokens": 0,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "mesh.small": 1,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_every": 0,
    "log.peak_tflops": 0,
    "eval.batch_size": 1,
    "pictures.examples": 0,
}


def complete(config: ConfigDict) -> ConfigDict:
    """Return the configuration with defaults filled in, locked.

    Raises:
      UserError: a field that does not exist (the message suggests the nearest), or a value of another type or out
        of range.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(f"the recipe's get_config() returned {config!r}; return a ConfigDict")
    full = default_config().unlock()
    _override(full, config, "")
    _check_ranges(full)
    return full.lock()


def _check_ranges(config: ConfigDict) -> None:
    for field, value in flatten(config).items():
        smallest = (
            0 if field.startswith("loss.") and field.endswith(".weight") else _AT_LEAST.get(field)
        )
        if smallest is not None and not value >= smallest:  # NaN too
            raise UserError(f"config.{field}={value!r}: give at least {smallest}")
    low, high = config.model.temperature_range
    if not 0 < low <= config.model.temperature <= high:
        raise UserError(
            f"config.model.temperature={config.model.temperature}: must lie within "
            f"config.model.temperature_range={config.model.temperature_range}, above 0"
        )


def default_of(field: str, given: str | None) -> Any:
    """Return the default of the field `a.b.c`, for which the command line gives `given`.

    Raises:
      UserError: the field does not exist (the message suggests the nearest), or is a section.
    """
    target: Any = default_config()
    path = ""
    for name in field.split("."):
        if not isinstance(target, ConfigDict):
            raise UserError(f"config.{field}={given}: config.{path} is not a section")
        _check_known(name, target, path, given)
        target, path = target[name], f"{path}.{name}" if path else name
    if isinstance(target, ConfigDict):
        raise UserError(
            f"config.{field}={given} is a section; give its fields: {', '.join(target)}"
        )
    return target


def _override(target: ConfigDict, given: ConfigDict, path: str) -> None:
    for name, value in given.items():
        field = f"{path}.{name}" if path else name
        _check_known(name, target, path, value)
        old = target[name]
        if isinstance(old, ConfigDict):
            if not hasattr(value, "items"):
                raise UserError(f"config.{field}={value!r} is a section; give its fields")
            _override(old, ConfigDict(value), field)
        else:
            target[name] = converted(value, old, field)


def _check_known(name: str, section: ConfigDict, path: str, value: Any) -> None:
    if name in section:
        return
    field = f"{path}.{name}" if path else name
    close = difflib.get_close_matches(name, list(section), n=1)
    known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(section)}"
    shown = value.to_dict() if isinstance(value, ConfigDict) else value
    raise UserError(f"config.{field}={shown!r}: there is no such field; {known}")


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Return `{"optim.lr": 1e-4, ...}`; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{name}.{key}": v for key, v in flatten(value).items()}
        else:
            flat[name] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
