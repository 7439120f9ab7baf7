"""Building a split as a folder of records: in parallel, atomically, identical for any number of workers."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import simplejpeg
from absl import logging
from tqdm import tqdm

from timix_jax.data.emoji import art
from timix_jax.data.emoji.captions import write_captions
from timix_jax.data.emoji.concepts import Concept, choose_concepts
from timix_jax.data.emoji.scenes import Look, render_scene
from timix_jax.data.emoji.splits import SPLITS, plan_split_scene, scene_numbers, scene_rng
from timix_jax.data.emoji.workers import map_unordered
from timix_jax.data.records.manifest import (
    MANIFEST,
    ShardSummary,
    read_manifest,
    shard_name,
    write_manifest,
)
from timix_jax.data.records.schema import Record, Region
from timix_jax.data.records.writer import RecordWriter
from timix_jax.errors import UserError
from timix_jax.runtime.file_lock import exclusive_lock
from timix_jax.runtime.machine import available_cores
from timix_jax.runtime.remote import local_only

_VERSION = 4  # version of the scenes, increased whenever the same options give other records
_SHARD_SCENES = 2500
_JPEG_QUALITY = 90  # decodes in half the time of PNG and takes two thirds of its space


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """The options that determine the records of a split.

    Attributes:
      split: a key of `SPLITS`.
      scenes: number of scenes.
      concepts: number of concepts, held-out ones included.
      heldout: number of concepts that training never shows.
      seed: seed of everything random.
      look: geometry of the scenes.
      heldout_vendor: the vendor that draws the split `heldout_vendor` and no other.
      gallery: number of the set of test scenes; every gallery of a test split has other scenes.
      several: True if the captions of the training split name at least two concepts, as those of the others do.
    """

    split: str
    scenes: int
    concepts: int
    heldout: int
    seed: int
    look: Look
    heldout_vendor: str = "Joy"
    gallery: int = 0
    several: bool = False

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise UserError(f"scenes={self.scenes}: must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: must be 0 or more")
        if not 0 <= self.gallery < 1000 or (self.gallery and not SPLITS[self.split].unique):
            raise UserError(
                f"gallery={self.gallery}: number of a set of test scenes, 0 to 999; the training split has no galleries"
            )
        _ = self.vendors
        if not 3 <= self.heldout <= self.concepts - 10:
            raise UserError(
                f"heldout={self.heldout}: number of the {self.concepts} concepts to hold out, "
                "must be at least 3 and leave 10 for training"
            )

    @property
    def vendors(self) -> tuple[int, ...]:
        """Indices into `art.VENDORS` of the vendors that draw the split."""
        return SPLITS[self.split].vendors(self.heldout_vendor)

    def folder_name(self) -> str:
        """Return the folder name in the cache: the split and a hash of everything the records depend on."""
        entries = dataclasses.asdict(self) | {"version": _VERSION} | art.package_versions()
        if not self.several:
            del entries["several"]  # folders of earlier versions stay in use
        text = json.dumps(entries, sort_keys=True)
        return f"{self.split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class _Shard(NamedTuple):
    path: Path
    numbers: Sequence[int]
    options: BuildOptions
    trained: tuple[Concept, ...]
    heldout: tuple[Concept, ...]


def cache_folder(cache: str = "") -> Path:
    """Return the folder of all built scenes: in `cache`, else $TIMIX_CACHE, else ~/.cache/timix_jax."""
    root = cache or os.environ.get("TIMIX_CACHE", "") or "~/.cache/timix_jax"
    local_only(root, "the scenes' cache", "name a folder by cache= or $TIMIX_CACHE")
    return Path(root).expanduser() / "emoji"


def ensure_built(options: BuildOptions, cache: str = "", workers: int | None = None) -> Path:
    """Return the folder of a split's records, building it if necessary.

    When several processes call this at once, one builds and the others wait. Remains of an
    interrupted build are discarded by the next one.

    Args:
      options: what to build.
      cache: see `cache_folder`.
      workers: number of processes; one per core by default.

    Returns:
      A folder with a manifest, as `RecordSource` reads it.

    Raises:
      UserError: a package is missing, an option is invalid, or the cache cannot be written.
    """
    folder = cache_folder(cache) / options.folder_name()
    if _is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder.with_name(folder.name + ".lock")):
            if not _is_complete(folder):
                for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                # Named after this process, so that a worker that outlives its builder does no harm.
                partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
                partial.mkdir()
                try:
                    _build(options, partial, workers or available_cores())
                    shutil.rmtree(folder, ignore_errors=True)
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the emoji scenes ({error}); name another folder in TIMIX_CACHE"
        ) from error
    return folder


def _is_complete(folder: Path) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    try:
        read_manifest(folder)
    except UserError as error:
        logging.warning("building the emoji scenes again: %s", error)
        return False
    return True


def _build(options: BuildOptions, folder: Path, workers: int) -> None:
    split = SPLITS[options.split]
    trained, heldout = choose_concepts(options.concepts, options.heldout, options.seed)
    numbers = scene_numbers(
        split, options.scenes, options.seed, len(trained), len(heldout), options.gallery
    )
    count = -(-options.scenes // _SHARD_SCENES)
    shards = [
        _Shard(
            folder / shard_name(options.split, index, count),
            numbers[index * _SHARD_SCENES : (index + 1) * _SHARD_SCENES],
            options,
            trained,
            heldout,
        )
        for index in range(count)
    ]
    summaries: dict[str, ShardSummary] = {}
    title = f"emoji scenes ({options.split})"
    with tqdm(total=options.scenes, desc=title, unit=" scenes") as progress:
        for summary in map_unordered(_write_shard, shards, min(workers, count)):
            summaries[summary.file] = summary
            progress.update(summary.examples)
    write_manifest(
        folder,
        options.split,
        [summaries[shard.path.name] for shard in shards],
        options=dataclasses.asdict(options),
        packages=art.package_versions(),
        vendors=[art.VENDORS[vendor] for vendor in options.vendors],
        trained_concepts=[concept.name for concept in trained],
        heldout_concepts=[concept.name for concept in heldout],
    )
    logging.info("built %d emoji scenes in %s", options.scenes, folder)


def _write_shard(shard: _Shard) -> ShardSummary:
    cv2.setNumThreads(1)
    with RecordWriter(shard.path) as writer:
        for number in shard.numbers:
            writer.write(_make_record(number, shard.options, shard.trained, shard.heldout))
    return writer.summary


def _make_record(
    number: int,
    options: BuildOptions,
    trained: Sequence[Concept],
    heldout: Sequence[Concept],
) -> Record:
    split = SPLITS[options.split]
    concepts = [*trained, *heldout]
    rng = scene_rng(options.seed, split, number)
    counts, vendors = (len(trained), len(heldout)), options.vendors
    plan = plan_split_scene(split, rng, *counts, vendors, several=options.several)
    drawings = [
        art.load_drawing(concepts[concept].key, art.VENDORS[vendor])
        for concept, vendor in zip(plan.concepts, plan.vendors, strict=True)
    ]
    scene = render_scene(rng, drawings, options.look)
    captions = write_captions(
        rng,
        [concepts[concept].phrase(plan.concepts.count(concept)) for concept in plan.named],
        scene.background,
    )
    regions = [
        Region(
            concepts[concept].phrase(),
            tuple(box),
            tuple(range(len(captions))) if concept in plan.named else (),
        )
        for concept, box in zip(plan.concepts, scene.boxes.tolist(), strict=True)
    ]
    image = simplejpeg.encode_jpeg(
        scene.image, quality=_JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
    return Record(f"{options.split}/{number:06d}", image, captions, tuple(regions))
