"""The features of a TFDS data set that hold the image, the captions and the regions."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow_datasets as tfds

from timix_jax.errors import UserError

BOX, LABEL = "bbox", "label"  # fields of an objects feature
_CAPTIONS = ("captions", "caption", "text")  # caption features tried by default
_TEXT_FIELDS = ("text", "caption", "raw")  # fields tried inside a caption feature of dictionaries
_OBJECTS = "objects"


def top_level_features(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Return the data set's features by name."""
    return dict(builder.info.features.items())


def lookup(example: Mapping[str, Any], name: str) -> Any:
    """Return a feature of an example, or a field inside one (`feature/field`)."""
    if name in example:
        return example[name]
    feature, _, field = name.rpartition("/")
    return example[feature][field]


def read_texts(value: Any) -> list[str]:
    """Decode one text or several, each on one line."""
    values = [value] if isinstance(value, str | bytes) else list(value)
    return [
        " ".join((v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v)).split())
        for v in values
    ]


def label_text(feature: Any, label: Any) -> str:
    """Return the name of a class label, or a textual label itself; empty if unknown."""
    if isinstance(label, bytes | str):
        return read_texts(label)[0]
    number = int(label)
    text = feature.int2str(number) if number >= 0 else ""  # -1 is TFDS's unknown label
    return text.replace("_", " ").strip()


def is_class(feature: Any) -> bool:
    """Return True for a class-label feature."""
    return isinstance(feature, tfds.features.ClassLabel)


def inner_fields(feature: Any) -> Mapping[str, Any]:
    """Return the fields of a list-of-dictionaries feature; empty for other features."""
    inner = getattr(feature, "feature", None)
    return dict(inner.items()) if isinstance(inner, tfds.features.FeaturesDict) else {}


def _missing(features: Mapping[str, Any], option: str, value: str, name: str) -> UserError:
    known = ", ".join(sorted(features))
    return UserError(f"tfds:{name}: {option}={value}: no such feature; it has {known}")


def image_feature(features: Mapping[str, Any], image: str, name: str) -> str:
    """Check that `image` names an image feature of the data set `name`, and return it."""
    if image not in features or not isinstance(features[image], tfds.features.Image):
        raise _missing(features, "image", image, name)
    return image


def caption_features(features: Mapping[str, Any], captions: str | None, name: str) -> list[str]:
    """Resolve the option `captions` to names of features or `feature/field` pairs."""
    if captions is not None:
        return [_caption_feature(features, one.strip(), name) for one in captions.split(",")]
    for candidate in _CAPTIONS:
        if candidate in features:
            return [_caption_feature(features, candidate, name)]
    raise _missing(features, "captions", " or ".join(_CAPTIONS), name)


def _caption_feature(features: Mapping[str, Any], caption: str, name: str) -> str:
    is_text: Callable[[Any], bool] = lambda f: isinstance(f, tfds.features.Text)
    feature = features.get(caption)
    if feature is None:
        top, _, field = caption.rpartition("/")
        if top in features and is_text(inner_fields(features[top]).get(field)):
            return caption
        raise _missing(features, "captions", caption, name)
    if is_text(feature) or is_text(getattr(feature, "feature", None)) or is_class(feature):
        return caption
    for field in _TEXT_FIELDS:
        if is_text(inner_fields(feature).get(field)):
            return f"{caption}/{field}"
    raise UserError(
        f"tfds:{name}: captions={caption}: not text; name a text feature, such as {caption}/field"
    )


def region_feature(features: Mapping[str, Any], regions: str | None, name: str) -> str | None:
    """Resolve the option `regions` to the name of an objects feature, or None."""
    chosen = regions or _OBJECTS
    if {BOX, LABEL} <= inner_fields(features.get(chosen)).keys():
        return chosen
    if regions is None:
        return None
    if chosen not in features:
        raise _missing(features, "regions", regions, name)
    raise UserError(f"tfds:{name}: regions={regions}: has no {BOX!r} and {LABEL!r}")
