"""The format `coco`: COCO's annotation files of captions and of instances, and a folder of images."""

import argparse
import collections
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from timix_jax.data.images.decode import image_size
from timix_jax.data.prepare.coco_file import (
    CocoFile,
    annotations_of,
    coco_id,
    image_keys,
    read_coco_file,
)
from timix_jax.data.prepare.options import Format, image_folder, local_path, side_regions
from timix_jax.data.prepare.regions import parse_regions
from timix_jax.data.prepare.side_keys import find_regions
from timix_jax.data.prepare.tasks import (
    ListedExample,
    ListedTask,
    Problem,
    RawExample,
    listed_tasks,
)
from timix_jax.data.records.schema import CorruptExample, Region
from timix_jax.errors import UserError


class _Boxes(NamedTuple):
    """The boxes of an image, and the width and height in pixels of the image that they are for, if known."""

    regions: tuple[Region, ...] = ()
    size: tuple[int, int] | None = None


class CocoTask(NamedTuple):
    """A shard of listed examples; boxes of images that have another size by now are dropped."""

    listed: ListedTask
    boxes: dict[str, _Boxes]  # by key

    @property
    def size(self) -> int:
        return self.listed.size

    def states(self) -> tuple[str, ...]:
        return self.listed.states()

    def fingerprint(self, states: tuple[str, ...]) -> str:
        sizes = repr([(key, boxes.size) for key, boxes in self.boxes.items()])
        return hashlib.sha256((self.listed.fingerprint(states) + sizes).encode()).hexdigest()

    def items(self, states: tuple[str, ...]) -> Iterator[RawExample | Problem]:
        for item in self.listed.items(states):
            if isinstance(item, RawExample) and item.key in self.boxes:
                regions, size = self.boxes[item.key]
                problem = _check_size(item, size)
                if problem is not None:
                    yield from [problem] * len(regions)
                    item = item._replace(regions=item.regions[len(regions) :])
            yield item


def _check_size(example: RawExample, size: tuple[int, int] | None) -> Problem | None:
    try:
        height, width = image_size(example.image, example.key)
    except CorruptExample:
        return None  # cleaning skips it
    if size is None or (width, height) == size:
        return None
    detail = f"made for {size[0]}x{size[1]} pixels, the file has {width}x{height}: give the original images"
    return Problem("box for another image size", example.key, detail, skipped=False)


def coco_tasks(
    captions_file: Path,
    instances_file: Path | None,
    images: Path,
    *,
    regions: Mapping[str, tuple[Region, ...]],
    num_shards: int | None,
) -> list[CocoTask]:
    """Read captions, and boxes whose text is the name of their category.

    The key of an example is its `file_name`, the path below `images`. Two entries of one file
    become one example.

    Args:
      captions_file: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.
      instances_file: the same `images`, with `annotations` of `{"image_id", "category_id", "bbox"}`
        and `categories` of `{"id", "name"}`; crowds are dropped. None: no boxes.
      images: the image folder.
      regions: regions from a side file, by key, added to the boxes.
      num_shards: see `listed_tasks`.

    Raises:
      UserError: a file is missing or has another form, or no image has a caption.
    """
    problems: list[Problem] = []
    content = read_coco_file(captions_file, "caption")
    keys = image_keys(content, images, problems)
    captions = _captions(content, keys, problems)
    boxes: dict[str, _Boxes] = {}
    if instances_file is not None:
        content = read_coco_file(instances_file, "bbox")
        left_out = len(problems)
        boxes = _boxes(content, keys, problems)
        if not boxes:
            raise UserError(
                f"--instances {instances_file}: has no box for an image of {captions_file}; give the "
                f"files of the same split; the first problem: {problems[left_out]}"
            )
    examples = []
    for key in dict.fromkeys(keys.values()):
        if key in captions:
            found = boxes.get(key, _Boxes()).regions
            side, matches = find_regions(regions, key, (key,))
            listed = ListedExample(key, images / key, tuple(captions[key]), found + side, matches)
            examples.append(listed)
        else:
            problems.append(Problem("no caption", key, "none given"))
    if not examples:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise UserError(f"--captions {captions_file}: no image has a caption{first}")
    return [
        CocoTask(task, {e.key: boxes[e.key] for e in task.examples if e.key in boxes})
        for task in listed_tasks(examples, problems, num_shards)
    ]


def _captions(
    file: CocoFile, keys: Mapping[str, str], problems: list[Problem]
) -> dict[str, list[str]]:
    captions = collections.defaultdict[str, list[str]](list)
    for where, key, entry in annotations_of(file, keys, ("caption",), problems):
        caption = entry.get("caption")
        if isinstance(caption, str):
            captions[key].append(caption)
        else:
            detail = f"{where}: {caption!r} is not a string"
            problems.append(Problem("malformed caption", key, detail[:200], skipped=False))
    return captions


def _boxes(file: CocoFile, keys: Mapping[str, str], problems: list[Problem]) -> dict[str, _Boxes]:
    names = {coco_id(entry.get("id")): entry.get("name") for entry in file.categories}
    sizes: dict[str, tuple[Any, Any]] = {}
    others = set[str]()  # ids that name another image in this file
    for entry in file.images:
        image = coco_id(entry.get("id"))
        if image is None or image not in keys:
            continue
        if _same_file(keys[image], entry.get("file_name")):
            sizes[keys[image]] = entry.get("width"), entry.get("height")
        else:
            others.add(image)
    keys = {image: key for image, key in keys.items() if key in sizes or image not in others}
    regions = collections.defaultdict[str, list[Region]](list)
    fields = ("category_id", "bbox", "iscrowd")
    for where, key, entry in annotations_of(file, keys, fields, problems):
        name = names.get(coco_id(entry.get("category_id")))
        detail = f"{where}: category {entry.get('category_id')!r}"[:100]
        if entry.get("iscrowd") in (1, "1"):
            problems.append(Problem("crowd box", key, detail, skipped=False))
        elif not isinstance(name, str):
            problems.append(Problem("unknown category", key, detail, skipped=False))
        else:
            try:
                (region,) = parse_regions([{"text": name, "box": entry.get("bbox")}])
                if not all(map(math.isfinite, region.box)):
                    raise ValueError(f"{region.box} is not finite")
                regions[key].append(region)
            except ValueError as error:
                detail = f"{where}: {error}"[:200]
                problems.append(Problem("malformed box", key, detail, skipped=False))
    return {key: _Boxes(tuple(found), _size(sizes.get(key))) for key, found in regions.items()}


def _same_file(key: str, name: Any) -> bool:
    """Return True unless the names differ by more than a prefix, such as COCO 2014's `COCO_val2014_`."""
    if not isinstance(name, str):
        return True
    a, b = PurePosixPath(key).name, PurePosixPath(name).name
    return a.endswith(b) or b.endswith(a)


def _size(values: tuple[Any, Any] | None) -> tuple[int, int] | None:
    if values is None or not all(isinstance(value, int) for value in values):
        return None
    return values


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--captions", type=local_path, required=True, help="captions_….json")
    parser.add_argument("--instances", type=local_path, help="instances_….json: boxes as regions")
    parser.add_argument("--images", type=local_path, required=True, help="image folder")


def _tasks(args: argparse.Namespace) -> list[CocoTask]:
    return coco_tasks(
        args.captions,
        args.instances,
        image_folder(args),
        regions=side_regions(args),
        num_shards=args.num_shards,
    )


FORMAT = Format("COCO's captions_….json, with boxes of instances_….json", _add_options, _tasks)
