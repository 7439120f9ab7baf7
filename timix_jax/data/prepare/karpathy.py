"""The format `karpathy` (COCO, Flickr8k, Flickr30k): a JSON file of captions and a folder of images."""

import argparse
import collections
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from timix_jax.data.prepare.json_file import read_json
from timix_jax.data.prepare.options import Format, image_folder, local_path, side_regions
from timix_jax.data.prepare.regions import parse_regions
from timix_jax.data.prepare.side_keys import Matches, find_regions
from timix_jax.data.prepare.tasks import (
    ListedExample,
    ListedTask,
    Problem,
    is_unsafe_path,
    listed_tasks,
    shown,
)
from timix_jax.data.records.schema import Region
from timix_jax.errors import UserError


def karpathy_tasks(
    file: Path,
    images: Path,
    *,
    splits: tuple[str, ...],
    regions: Mapping[str, tuple[Region, ...]],
    num_shards: int | None,
) -> list[ListedTask]:
    """Read `{"images": [{"filename", "split", "sentences": [{"raw"}], …}]}`.

    The key of an example is its path below `images`: `filepath/filename`, or `filename`. Entries
    with the same key become one example with all their captions and regions.

    Args:
      file: the JSON file.
      images: the image folder.
      splits: the splits to include, such as `("train", "restval")`.
      regions: regions from a side file, by key or file name, added to an entry's own `"regions"`.
      num_shards: see `listed_tasks`.

    Raises:
      UserError: the file is missing or has another form, has no example of these splits, or a key of
        the side file fits several of its images.
    """
    entries = _read(file)
    found = collections.Counter(str(entry.get("split")) for entry in entries)
    for split in splits:
        if split not in found:
            have = shown(", ".join(f"{name} ({count})" for name, count in sorted(found.items())))
            raise UserError(f"--split {split}: not in {file}, which has {have or 'no images'}")
    matches = Matches()
    examples: dict[str, ListedExample] = {}
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        selected = str(entry.get("split")) in splits
        try:
            listed = _parse_entry(entry, images, regions)
        except ValueError as error:
            name = str(entry.get("filename", f"images[{index}]"))
            if selected:
                problems.append(Problem("malformed entry", name, str(error)[:200]))
            continue
        matches.add(listed.matches)  # other splits may have an image of the same file name
        if not selected:
            continue
        if is_unsafe_path(listed.key):
            problems.append(Problem("unsafe path", listed.key))
            continue
        before = examples.get(listed.key)
        examples[listed.key] = _merge_entries(before, listed) if before else listed
    if not examples:
        raise UserError(
            f"--json {file}: none of the {len(problems)} entries of --split {','.join(splits)} is usable; "
            f"the first: {problems[0]}"
        )
    return listed_tasks(list(examples.values()), problems, num_shards)


def _read(file: Path) -> list[dict[str, Any]]:
    content = read_json("--json", file)
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f'--json {file}: not a Karpathy-style {{"images": […]}}')
    if "annotations" in content:
        boxes = any(
            "bbox" in entry for entry in content["annotations"] or () if isinstance(entry, dict)
        )
        options = f"--captions FILE --instances {file}" if boxes else f"--captions {file}"
        raise UserError(
            f"--json {file}: an annotation file of COCO, not a Karpathy split; read it with: prepare coco {options}"
        )
    entries = content["images"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f'--json {file}: "images" must be a list of objects')
    return entries


def _parse_entry(
    entry: dict[str, Any], images: Path, regions: Mapping[str, tuple[Region, ...]]
) -> ListedExample:
    folder, name, sentences = (
        entry.get("filepath", ""),
        entry.get("filename"),
        entry.get("sentences"),
    )
    if not isinstance(name, str) or not isinstance(folder, str):
        raise ValueError(f'"filepath" {folder!r} and "filename" {name!r} must be strings')
    if not isinstance(sentences, list):
        raise ValueError('has no list "sentences"')
    captions = tuple(map(_caption, sentences))
    key = str(PurePosixPath(folder, name))
    own = parse_regions(entry.get("regions") or [])
    side, matches = find_regions(regions, key, (key, name))
    return ListedExample(key, images / key, captions, own + side, matches)


def _caption(sentence: Any) -> str:
    caption = sentence.get("raw") if isinstance(sentence, dict) else None
    if not isinstance(caption, str):
        raise ValueError('one of its "sentences" has no string "raw"')
    return caption


def _merge_entries(first: ListedExample, second: ListedExample) -> ListedExample:
    """Merge two entries of one image, which as separate examples would be negatives of each other."""
    regions = dict.fromkeys(first.regions + second.regions)  # both include the side file's regions
    return first._replace(captions=first.captions + second.captions, regions=tuple(regions))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=local_path, required=True, help="the captions file")
    parser.add_argument("--images", type=local_path, required=True, help="image folder")
    parser.add_argument("--split", required=True, help="one or more, such as train,restval")


def _tasks(args: argparse.Namespace) -> list[ListedTask]:
    return karpathy_tasks(
        args.json,
        image_folder(args),
        splits=tuple(args.split.split(",")),
        regions=side_regions(args),
        num_shards=args.num_shards,
    )


FORMAT = Format("Karpathy-style JSON and image folder", _add_options, _tasks)
