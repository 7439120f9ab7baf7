"""TFDS: a small data set is built and read without TensorFlow, each in its own process."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from timix_jax.data.records.schema import CorruptExample, Region
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError

# COCO's name and layout: TFDS's class of that name needs TensorFlow, the files do not.
BUILD = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

F = tfds.features

def png(i):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 10 + i, 3), i, np.uint8)).save(file, "PNG")
    return file.getvalue()

class CocoCaptions(tfds.core.GeneratorBasedBuilder):
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014", version=tfds.core.Version("1.1.0"))]

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict({
            "image": F.Image(encoding_format="png"),
            "mask": F.Image(shape=(None, None, 1), encoding_format="png"),
            "image/filename": F.Text(),
            "title": F.Text(),
            "kind": F.ClassLabel(names=["cat", "fire_hydrant"]),
            "tags": F.Sequence(F.Text()),
            "captions": F.Sequence({"id": np.int64, "text": F.Text()}),
            "objects": F.Sequence({
                "bbox": F.BBoxFeature(), "label": F.ClassLabel(names=["cat", "fire_hydrant"])}),
        }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, 12), "val": self._generate_examples(12, 15)}

    def _generate_examples(self, start, stop):
        for i in range(start, stop):
            boxes = [F.BBox(ymin=.25, xmin=.5, ymax=.75, xmax=1.), F.BBox(0., 0., 1., 1.)]
            yield i, {
                "image": png(i), "mask": png(0), "image/filename": f"{i}.png",
                "title": f"title {i}", "kind": i % 2, "tags": ["red", "blue"],
                "captions": [{"id": k, "text": t} for k, t in enumerate((f"one  {i}", "two", " "))]
                            if i != 14 else [],
                "objects": [{"bbox": b, "label": k} for k, b in zip((1, -1), boxes)] * (i % 2),
            }

CocoCaptions(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""

READ = """
import pickle, sys
from timix_jax.data.sources import open_source

source = open_source(f"tfds:coco_captions?split=train&data_dir={sys.argv[1]}")
source = pickle.loads(pickle.dumps(source))
assert len([source[i] for i in range(len(source))]) == 12
assert len(source.annotated) == 6
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    script = folder / "build.py"
    script.write_text(BUILD)
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


def number(record):
    """Return the number of the generated example, stored in its pixels because TFDS shuffles."""
    return int(np.asarray(Image.open(io.BytesIO(record.image)))[0, 0, 0])


def test_reading_never_imports_tensorflow(data_dir):
    subprocess.run([sys.executable, "-c", READ, data_dir], check=True)


def test_records_are_mapped_from_the_features(data_dir):
    source = open_source(f"tfds:coco_captions?data_dir={data_dir}")
    assert len(source) == 12
    found = {}
    for index in range(12):
        record = source[index]
        i = found[index] = number(record)
        assert record.image.startswith(b"\x89PNG")
        assert record.key == f"coco_captions/train/{index}"
        assert record.captions == (f"one {i}", "two")
        width = 10 + i  # pixels; the second box has no label
        box = (0.5 * width, 2.0, 0.5 * width, 4.0)
        assert record.regions == ((Region("fire hydrant", box),) if i % 2 else ())
    assert sorted(found.values()) == list(range(12))
    assert source.annotated.tolist() == [index for index, i in found.items() if i % 2]
    assert source.annotated.dtype == np.int64
    assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_options_select_split_features_and_share(data_dir):
    spec = f"tfds:coco_captions/2014:1.1.0?data_dir={data_dir}"
    whole = open_source(spec)
    some = open_source(spec + "&annotated=0.5")
    assert set(some.annotated) < set(whole.annotated)
    assert len(open_source(spec + "&split=train[:5]")) == 5
    source = open_source(spec + "&captions=title,tags,captions/text,image/filename")
    i = number(source[0])
    assert source[0].captions == (f"title {i}", "red", "blue", f"one {i}", "two", f"{i}.png")
    folder = data_dir / "coco_captions" / "2014" / "1.1.0"
    assert len(open_source(f"tfds:{folder}?split=val")) == 3


def test_class_names_can_be_captions(data_dir):
    source = open_source(f"tfds:coco_captions?data_dir={data_dir}&captions=kind")
    for record in map(source.__getitem__, range(12)):
        assert record.captions == (("fire hydrant",) if number(record) % 2 else ("cat",))


def test_example_without_caption_is_corrupt(data_dir):
    source = open_source(f"tfds:coco_captions?data_dir={data_dir}&split=val")
    reasons = []
    for index in range(3):
        try:
            assert number(source[index]) != 14
        except CorruptExample as error:
            reasons.append(error.reason)
    assert reasons == ["no caption"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("coco_captions", "split=trian", "split=trian: Unknown split"),
        ("coco_captions", "image=picture", "image=picture: no such feature; it has captions, "),
        ("coco_captions", "image=title", "image=title"),
        ("coco_captions", "captions=words", "captions=words: no such feature"),
        ("coco_captions", "captions=captions/id", "captions=captions/id"),
        ("coco_captions", "captions=objects", "not text"),
        ("coco_captions", "regions=things", "regions=things: no such feature"),
        ("coco_captions", "regions=captions", "has no 'bbox' and 'label'"),
        ("coco_captions", "annotated=2", "annotated=2"),
        ("coco_caption", "split=train", "not built in"),
        ("what is this", "split=train", "write data_set/config:version"),
        ("/nowhere", "split=train", "no dataset_info.json"),
        ("", "split=train", "names no data set"),
    ],
)
def test_errors_are_one_line(data_dir, name, options, words):
    with pytest.raises(UserError) as caught:
        open_source(f"tfds:{name}?data_dir={data_dir}&{options}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_file_formats_are_refused(data_dir, tmp_path):
    folder = data_dir / "coco_captions" / "2014" / "1.1.0"
    for path in folder.iterdir():
        name = path.name.replace("array_record", "tfrecord")
        data = path.read_bytes()
        if path.name == "dataset_info.json":
            info = json.loads(data) | {"fileFormat": "tfrecord"}
            data = json.dumps(info).replace("array_record", "tfrecord").encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="stored as tfrecord, which needs TensorFlow"):
        open_source(f"tfds:{tmp_path}?split=val")
