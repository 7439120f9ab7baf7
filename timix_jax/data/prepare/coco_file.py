"""COCO's annotation files: their images, and the annotations of each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timix_jax.data.prepare.image_paths import key_below
from timix_jax.data.prepare.json_file import read_json
from timix_jax.data.prepare.tasks import Problem
from timix_jax.errors import UserError

_OPTIONS = {"caption": "--captions", "bbox": "--instances"}  # by the field that annotations have


class CocoFile(NamedTuple):
    """The lists of an annotation file."""

    name: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_coco_file(file: Path, field: str) -> CocoFile:
    """Read a file whose annotations have the field `caption` or `bbox`.

    Raises:
      UserError: the file cannot be read or has another form.
    """
    option = _OPTIONS[field]
    content = read_json(option, file)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        advice = "; Karpathy's splits have the format karpathy" if _is_karpathy(content) else ""
        raise UserError(
            f'{option} {file}: not an annotation file of COCO, {{"images": […], "annotations": […]}}{advice}'
        )
    lists = [content.get(name, []) for name in CocoFile._fields[1:]]
    for name, entries in zip(CocoFile._fields[1:], lists, strict=True):
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(f'{option} {file}: "{name}" must be a list of objects')
    found = {name for entry in content["annotations"] for name in entry}
    if field not in found:
        other = next((_OPTIONS[name] for name in _OPTIONS if name in found), None)
        advice = f"; give it as {other}" if other else ""
        raise UserError(f'{option} {file}: no annotation has a "{field}"{advice}')
    return CocoFile(file.name, *lists)


def _is_karpathy(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and any(
        isinstance(e, dict) and "sentences" in e for e in images
    )


def coco_id(value: Any) -> str | None:
    """Return an id in one spelling: exporters also write 7 as "7" or 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def image_keys(file: CocoFile, images: Path, problems: list[Problem]) -> dict[str, str]:
    """Map the ids of images to keys, paths below the folder; what is left out joins `problems`."""
    key_of = key_below(images)
    keys: dict[str, str] = {}
    for index, entry in enumerate(file.images):
        where, name, image = f"images[{index}]", entry.get("file_name"), coco_id(entry.get("id"))
        if not isinstance(name, str) or not name or image is None:
            detail = f'"id" {entry.get("id")!r} or "file_name" {name!r} is not usable'
            problems.append(Problem("malformed entry", where, detail[:200]))
        elif (key := key_of(name)) is None:
            problems.append(Problem("unsafe path", name, where))
        elif key != keys.setdefault(image, key):
            detail = f"{where} has id {image} of {keys[image]}"
            problems.append(Problem("duplicate image id", key, detail))
    return keys


def annotations_of(
    file: CocoFile,
    keys: Mapping[str, str],
    fields: Sequence[str],
    problems: list[Problem],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the place in the file, the key and the entry of each annotation of the images in `keys`.

    Annotations of other images, and exact repetitions (same id, image and `fields`), join `problems`.
    """
    first: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(file.annotations):
        where = f"{file.name} annotations[{index}]"
        image, own = coco_id(entry.get("image_id")), coco_id(entry.get("id"))
        before = first.setdefault(own, entry) if own is not None else entry
        if image is None or image not in keys:
            detail = f"image_id {entry.get('image_id')!r}"[:100]
            problems.append(Problem("annotation of an unknown image", where, detail, skipped=False))
        elif before is not entry and all(
            before.get(field) == entry.get(field) for field in ("image_id", *fields)
        ):
            detail = f"{where} repeats id {own}"
            problems.append(Problem("duplicate annotation", keys[image], detail, skipped=False))
        else:
            yield where, keys[image], entry
