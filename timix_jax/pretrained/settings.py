"""Settings that published weights were trained with, compared with the run's: equal shapes do not prove a match."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from timix_jax.errors import UserError
from timix_jax.models import contains_towers
from timix_jax.pretrained.layouts import UNSTATED, Contents
from timix_jax.pretrained.pixels import KNOWN_PIXELS, Pixels

_TOWERS = ("image", "text")
_HINTS = {
    "act": "'quick_gelu' for OpenAI's weights and what open_clip calls -quickgelu, else mostly 'gelu'",
    "eps": "1e-5 for CLIP, 1e-6 for SigLIP, 1e-12 for BERT and Hugging Face's ViT",
}


def effective(run: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field with the rules by which an empty one gets its meaning."""
    value = run.get(field)
    if field.endswith(".act"):
        return value or run.get("model.act")
    if field.endswith(".eps") and not value:
        bert = field == "model.text.eps" and not run.get("model.text.pre_norm")
        return 1e-12 if bert else 1e-6
    return value


def check_settings(
    contents: Contents, title: str, run: Mapping[str, Any] | None, part: str
) -> Contents:
    """Return the contents of one part, or of all, after comparing their settings with the run's.

    Raises:
      UserError: the file has no such part; settings differ, with those to set; or neither says a setting.
    """
    if part and not getattr(contents, part):
        raise UserError(f"({title}) has no {part} tower")
    settings = {
        name: value
        for name, value in contents.settings.items()
        if not part or name.startswith(f"model.{part}.")
    }
    if run is None:
        return dataclasses.replace(contents, settings=settings)
    if not contains_towers(run.get("model.name", "dual_encoder")):
        raise UserError(
            f"({title}) fits config.model.name='dual_encoder' and models that contain one"
        )
    contents, settings = _without_foreign_projection(contents, settings, run, part)
    _refuse_unstated(settings, title, run)
    different = {n: v for n, v in settings.items() if not _fits(n, v, run)}
    if different:
        flags = " ".join(f"--config.{name}={value}" for name, value in different.items())
        there = ", ".join(f"{name}={effective(run, name)!r}" for name in different)
        raise UserError(f"({title}) needs other settings than {there}: give {flags}")
    return dataclasses.replace(contents, settings=settings)


def complete_settings(contents: Contents, title: str, given: Mapping[str, Any]) -> Contents:
    """Return the contents with `given` where the weights state no setting.

    Raises:
      UserError: neither says a setting, or both do and differ; sizes that can be fitted may differ.
    """
    settings = contents.settings
    _refuse_unstated(settings, title, given)
    fitted = ("model.image.size", "model.text.max_tokens")
    for name, value in given.items():
        stated = settings.get(name, UNSTATED)
        if stated is not UNSTATED and stated != value and name not in fitted:
            raise UserError(f"({title}) states {name}={stated!r}: leave out {value!r}")
    filled = {n: given[n] if v is UNSTATED else v for n, v in settings.items()}
    sizes = {name: given[name] for name in fitted if name in given}
    return dataclasses.replace(contents, settings=filled | sizes)


def _without_foreign_projection(
    contents: Contents, settings: dict[str, Any], run: Mapping[str, Any], part: str
) -> tuple[Contents, dict[str, Any]]:
    """Leave the projection of a single tower fresh if it leads to another space."""
    field = f"model.{part}.projection"
    if not part or field not in settings:
        return contents, settings
    space = contents.settings["model.embed_dim"]
    if settings[field] == run.get(field) and space == run.get("model.embed_dim"):
        return contents, settings
    leaves = {n: v for n, v in getattr(contents, part).items() if not n.startswith("projection")}
    settings = {name: value for name, value in settings.items() if name != field}
    if part == "image":
        return dataclasses.replace(contents, image=leaves), settings
    return dataclasses.replace(contents, text=leaves), settings


def _refuse_unstated(settings: Mapping[str, Any], title: str, run: Mapping[str, Any]) -> None:
    """Name the fields that say what no file says; a value that is not the default counts as said."""
    missing = [name for name, value in settings.items() if value is UNSTATED and not run.get(name)]
    if missing:
        hints = [_HINTS[key] for key in _HINTS if any(name.endswith(key) for name in missing)]
        fields = ", ".join(f"config.{name}" for name in missing)
        raise UserError(
            f"({title}) has no configuration file next to it that states how it was trained: put it there, or set"
            f" {fields} ({'; '.join(hints)})"
        )


def _fits(name: str, value: Any, run: Mapping[str, Any]) -> bool:
    if value is UNSTATED or name == "model.image.size":  # positions are interpolated
        return True
    given = effective(run, name)
    if name == "model.text.max_tokens":
        full = run.get("model.text.pad_mask") is False or run.get("model.text.pool") == "last"
        return bool(given == value if full else given <= value)
    if name == "model.text.pad_mask" and run.get("model.text.causal"):
        return True
    if isinstance(value, float):
        return bool(abs(given - value) <= 1e-3 * value)
    return bool(given == value)


def pixels_of(contents: Contents, run: Mapping[str, Any] | None) -> Pixels:
    """Return the pixel normalisation that the weights state, or that the run names.

    Raises:
      UserError: neither says it.
    """
    if isinstance(contents.pixels, Pixels):
        return contents.pixels
    if contents.pixels is None:
        return KNOWN_PIXELS["half"]  # no image tower
    named = (run or {}).get("init_pixels", "")
    if named not in KNOWN_PIXELS:
        raise UserError(
            "has no file next to it that states how pixels were normalised (preprocessor_config.json, or preprocess_cfg"
            f" in open_clip_config.json): put it there, or set config.init_pixels to {', '.join(KNOWN_PIXELS)}"
        )
    return KNOWN_PIXELS[named]
