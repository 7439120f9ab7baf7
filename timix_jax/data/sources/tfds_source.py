"""The source `tfds:NAME`: TFDS data sets read through `as_data_source`, without importing TensorFlow.

**Example:**

    open_tfds("coco_captions", split="train", data_dir="/data/tfds")

The data set must be built in the ArrayRecord format. Its own Python code is not run, since much of
it needs TensorFlow; features and splits are read from the files.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from timix_jax.data.images.decode import image_size
from timix_jax.data.records.annotated import key_hash, select_annotated
from timix_jax.data.records.schema import CorruptExample, Record, Region
from timix_jax.data.sources.tfds_features import (
    BOX,
    LABEL,
    caption_features,
    image_feature,
    inner_fields,
    is_class,
    label_text,
    lookup,
    read_texts,
    region_feature,
    top_level_features,
)
from timix_jax.errors import UserError
from timix_jax.runtime.remote import as_path, is_remote


class TfdsSource:
    """Records of one split of a TFDS data set.

    Args:
      name: the name in the specification, for messages and keys.
      builder: a read-only builder.
      split: such as `train` or `train[:1000]`.
      image: feature of the encoded image.
      captions: features of the captions, each a text, a list of texts, or a text field in a list of
        dictionaries (`feature/field`).
      regions: feature of the objects, a list of dictionaries with box and label; None: no regions.
      annotated: share of the annotated examples whose regions the trainer sees.
    """

    def __init__(
        self,
        name: str,
        builder: tfds.core.DatasetBuilder,
        split: str,
        *,
        image: str,
        captions: Sequence[str],
        regions: str | None,
        annotated: float,
    ):
        self.name = f"tfds:{name}?split={split}"
        self._key = f"{builder.name}/{split}"
        self._image, self._captions, self._regions = image, tuple(captions), regions
        self._fraction = annotated
        features = top_level_features(builder)
        self._label = inner_fields(features[regions])[LABEL] if regions else None
        self._classes = {name: features[name] for name in captions if is_class(features.get(name))}
        # Skip decoding: TFDS would use TensorFlow, and decode masks and depth maps too.
        decoders = {
            feature: tfds.decode.SkipDecoding()
            for feature, kind in features.items()
            if isinstance(kind, tfds.features.Image)
        }
        self._data = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Record:
        """Record `index`. Raises CorruptExample if it is damaged or has no caption."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)}")
        key = f"{self._key}/{index}"
        try:
            example = self._data[index]
        except (RuntimeError, OSError) as error:
            raise CorruptExample(key, f"unreadable: {error}") from error
        captions = [
            text for name in self._captions for text in self._read_texts(example, name) if text
        ]
        if not captions:
            raise CorruptExample(key, "no caption")
        image = bytes(example[self._image])
        return Record(key, image, tuple(captions), self._read_regions(example, image, key))

    def _read_texts(self, example: Mapping[str, Any], name: str) -> list[str]:
        value = lookup(example, name)
        kind = self._classes.get(name)
        return [label_text(kind, value)] if kind else read_texts(value)

    def _read_regions(
        self, example: Mapping[str, Any], image: bytes, key: str
    ) -> tuple[Region, ...]:
        if self._regions is None:
            return ()
        objects = example[self._regions]
        if not len(objects[BOX]):
            return ()
        height, width = image_size(image, key)
        regions = []
        for box, label in zip(objects[BOX], objects[LABEL], strict=True):
            # TFDS boxes are y0, x0, y1, x1 as fractions of the image.
            y0, x0, y1, x1 = np.clip(np.asarray(box, np.float64), 0, 1).tolist()
            text = label_text(self._label, label)
            if x1 > x0 and y1 > y0 and text:
                pixels = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
                regions.append(Region(text, pixels))
        return tuple(regions)

    @functools.cached_property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees.

        The files have no index of them, so the chosen share is read once, on first use.
        """
        if self._regions is None:
            return np.zeros((0,), np.int64)
        rows = [(index, key_hash(f"{self._key}/{index}")) for index in range(len(self))]
        chosen = select_annotated(np.asarray(rows, np.int64).reshape(-1, 2), self._fraction)
        logging.info("%s: reading %d examples to find those with regions", self.name, len(chosen))
        return np.asarray([i for i in chosen.tolist() if self._has_regions(i)], np.int64)

    def _has_regions(self, index: int) -> bool:
        try:
            return bool(self[index].regions)
        except CorruptExample:  # the reader counts it when it is drawn
            return False


def open_tfds(
    name: str,
    *,
    split: str = "train",
    data_dir: str | None = None,
    image: str = "image",
    captions: str | None = None,
    regions: str | None = None,
    annotated: float = 1.0,
) -> TfdsSource:
    """Open a TFDS data set on disk.

    Args:
      name: `data_set`, `data_set/config:version`, or the folder of a version.
      split: such as `train` or `train[:1000]`.
      data_dir: where TFDS keeps data sets; None: its default.
      image: name of the image feature.
      captions: comma-separated names of caption features; `feature/field` inside a list of
        dictionaries, or a class, whose name is the caption. None: `captions`, `caption` or `text`.
      regions: name of the objects feature; None: `objects` if it has boxes and labels.
      annotated: share of the annotated examples whose regions the trainer sees, 0 to 1.

    Raises:
      UserError: the data set, split or feature does not exist, or it is not in the ArrayRecord
        format.
    """
    if not name:
        raise UserError("data source 'tfds:' names no data set; write tfds:name?split=train")
    builder = _builder(name, data_dir)
    features = top_level_features(builder)
    try:
        source = TfdsSource(
            name,
            builder,
            split,
            image=image_feature(features, image, name),
            captions=caption_features(features, captions, name),
            regions=region_feature(features, regions, name),
            annotated=annotated,
        )
    except NotImplementedError as error:
        raise UserError(
            f"tfds:{name}: stored as {builder.info.file_format.value}, which needs TensorFlow; "
            "build it with --file_format=array_record"
        ) from error
    except UserError:
        raise
    except ValueError as error:  # unknown split; TFDS lists the known ones
        raise UserError(f"tfds:{name}: split={split}: {' '.join(str(error).split())}") from error
    select_annotated(np.zeros((0, 2), np.int64), annotated)  # validates the share
    if not len(source):
        raise UserError(f"tfds:{name}: split={split} holds no examples")
    return source


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    folder = as_path(name)
    data_dir = os.fspath(as_path(data_dir)) if data_dir else data_dir
    try:
        if (folder / "dataset_info.json").is_file():
            return tfds.builder_from_directory(folder)
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (ValueError, FileNotFoundError) as error:  # TFDS raises ValueError for "not found" too
        if is_remote(name) or folder.is_absolute():
            raise UserError(f"tfds:{folder}: no dataset_info.json in this folder") from error
        if not isinstance(error, tfds.core.DatasetNotFoundError):
            raise UserError(
                f"tfds:{name}: not a valid name; write data_set/config:version"
            ) from error
        where = data_dir or "the default folder of TFDS"
        raise UserError(
            f"tfds:{name}: not built in {where}; give data_dir=, or build it there with "
            f"tfds build {name.split(':')[0]} --file_format=array_record"
        ) from error
