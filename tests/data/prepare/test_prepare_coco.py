"""The prepare command's format `coco`."""

import json
from types import SimpleNamespace

import pytest
from prepare_inputs import all_records, assert_fails, entry, karpathy, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest
from timix_jax.data.records.schema import Region


def image(number, **more):
    size = {"width": 40, "height": 30}  # as `picture` draws them
    return {"id": number, "file_name": f"{number:012d}.jpg", **size, **more}


def caption(number, image_id, text):
    return {"id": number, "image_id": image_id, "caption": text}


def box(number, image_id, bbox, **more):
    return {"id": number, "image_id": image_id, "bbox": bbox, "category_id": 18, **more}


@pytest.fixture
def coco(tmp_path):
    """Write image files and annotation files; `coco.argv` is the command line."""
    folder = tmp_path / "images"
    folder.mkdir()

    def write(files, images, captions, boxes=None, instances=None):
        for number in files:
            (folder / f"{number:012d}.jpg").write_bytes(picture(number))
        written = {"captions": {"images": images, "annotations": captions}}
        if boxes is not None:
            categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
            written["instances"] = {"images": images, "annotations": boxes}
            written["instances"] |= {"categories": categories} | (instances or {})
        argv = ["coco", f"--images={folder}", f"--out={tmp_path / 'out'}", "--workers=1"]
        for name, content in written.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            argv.append(f"--{name}={tmp_path / name}.json")
        return argv

    return SimpleNamespace(write=write, out=tmp_path / "out", folder=tmp_path)


def counts(out, kind):
    return {reason: found["count"] for reason, found in read_manifest(out)[kind].items()}


def test_captions_and_boxes_of_an_image_are_joined(coco):
    captions = [caption(1, 7, "a dog"), caption(2, 9, "a street"), caption(3, 7, "it runs")]
    boxes = [
        box(1, 7, [1, 2, 3.5, 4]),
        box(2, 9, [5, 5, 9, 9], category_id=1),
        box(3, 7, [0, 0, 9, 9]),
    ]
    assert main(coco.write([7, 9], [image(9), image(7)], captions, boxes)) == 0
    street, dog = all_records(coco.out)
    assert street == (
        "000000000009.jpg",
        picture(9),
        ("a street",),
        (Region("person", (5, 5, 9, 9)),),
    )
    assert dog.captions == ("a dog", "it runs")
    assert dog.regions == (Region("dog", (1, 2, 3.5, 4)), Region("dog", (0, 0, 9, 9)))
    manifest = read_manifest(coco.out)
    assert manifest["skipped"] == manifest["dropped"] == {}


def test_captions_alone(coco):
    assert main(coco.write([7], [image(7)], [caption(1, 7, "a dog")])) == 0
    assert all_records(coco.out)[0].regions == ()


def test_what_cannot_be_used_is_counted_and_named(coco):
    images = [image(1), image(2), image(3), image(4), image(1)]
    images += [image(2, file_name="other.jpg"), {"id": 5}, image(6, file_name="../up.jpg")]
    captions = [caption(n, n, f"caption {n}") for n in (1, 2, 3)]
    captions += [
        captions[0],
        caption(1, 1, "same id, other text"),
        caption(8, 77, "x"),
        caption(9, 1, None),
    ]
    boxes = [box(1, 1, [1, 1, 5, 5]), box(1, 1, [1, 1, 5, 5]), box(2, 1, [0, 0, 9, 9], iscrowd=1)]
    boxes += [
        box(3, 1, [1, 2, 3]),
        box(4, 2, None),
        box(5, 2, [0, 0, 0, 5]),
        box(6, 2, [0, 0, float("nan"), 5]),
        box(10, 2, [0, 0, float("inf"), 5]),
    ]
    boxes += [
        box(7, 2, [2, 2, 5, 5], category_id=5),
        box(8, 88, [1, 1, 5, 5]),
        box(9, 2, [-3, 25, 10, 10]),
    ]
    assert main(coco.write([1, 2, 4], images, captions, boxes)) == 0
    first, second = all_records(coco.out)
    assert first.captions == ("caption 1", "same id, other text")
    assert first.regions == (Region("dog", (1, 1, 5, 5)),)
    assert second.regions == (Region("dog", (0, 25, 7, 5)),)
    assert counts(coco.out, "skipped") == {
        "duplicate image id": 1, "malformed entry": 1, "missing image": 1, "no caption": 1, "unsafe path": 1,
    }  # fmt: skip
    assert counts(coco.out, "dropped") == {
        "annotation of an unknown image": 2, "crowd box": 1, "duplicate annotation": 2, "malformed box": 4,
        "malformed caption": 1, "region outside the image": 1, "unknown category": 1,
    }  # fmt: skip
    named = read_manifest(coco.out)["dropped"]["annotation of an unknown image"]["first"]
    assert named == [
        "captions.json annotations[5]: image_id 77",
        "instances.json annotations[9]: image_id 88",
    ]


@pytest.mark.parametrize("spelling", [str, float])
def test_ids_may_be_spelled_differently(coco, spelling):
    argv = coco.write(
        [7], [image(7)], [caption(1, spelling(7), "a dog")], [box(1, spelling(7), [0, 0, 9, 9])]
    )
    assert main(argv) == 0
    assert len(all_records(coco.out)[0].regions) == 1


def test_two_ids_of_one_file_are_one_example(coco):
    images = [image(7), image(8, file_name=image(7)["file_name"])]
    assert main(coco.write([7], images, [caption(1, 7, "a dog"), caption(2, 8, "a cat")])) == 0
    assert [record.captions for record in all_records(coco.out)] == [("a dog", "a cat")]


def test_boxes_for_another_size_are_dropped(coco):
    """Images are often shrunk after they were annotated."""
    images = [image(7), image(8, width=80, height=60)]
    boxes = [box(n, i, [1, 1, 5, 5]) for n, i in enumerate((7, 8, 8))]
    assert main(coco.write([7, 8], images, [caption(n, n, "dog") for n in (7, 8)], boxes)) == 0
    assert [len(record.regions) for record in all_records(coco.out)] == [1, 0]
    dropped = read_manifest(coco.out)["dropped"]["box for another image size"]
    assert dropped["count"] == 2
    assert "80x60 pixels, the file has 40x30" in dropped["first"][0]


@pytest.mark.parametrize(
    ("name", "regions"), [("COCO_val2014_000000000007.jpg", 1), ("other.jpg", 0), (None, 1)]
)
def test_boxes_of_another_image_with_the_same_id_are_dropped(coco, name, regions):
    boxes = [box(1, 7, [1, 1, 5, 5]), box(2, 8, [1, 1, 5, 5])]
    instances = {"images": [image(7, file_name=name), image(8)]}
    argv = coco.write(
        [7, 8], [image(7), image(8)], [caption(n, n, "dog") for n in (7, 8)], boxes, instances
    )
    assert main(argv) == 0
    assert [len(record.regions) for record in all_records(coco.out)] == [regions, 1]


def test_files_that_are_something_else_are_explained(tmp_path, coco, capsys):
    captions, boxes = [caption(1, 7, "a dog")], [box(1, 7, [1, 1, 5, 5])]
    argv = coco.write([7], [image(7)], captions, boxes)
    files = {name: tmp_path / f"{name}.json" for name in ("captions", "instances")}
    assert_fails(
        capsys, [*argv, f"--captions={files['instances']}"], "--captions", "give it as --instances"
    )
    assert_fails(
        capsys, [*argv, f"--instances={files['captions']}"], "--instances", "give it as --captions"
    )
    (tmp_path / "karpathy").mkdir()
    split = karpathy(tmp_path / "karpathy", [entry("a.jpg", "a dog")], {})
    assert_fails(capsys, [*argv, split[1].replace("--json", "--instances")], "the format karpathy")
    read_coco = (
        f"COCO, not a Karpathy split; read it with: prepare coco --captions {files['captions']}"
    )
    assert_fails(capsys, [*split, f"--json={files['captions']}", argv[2]], read_coco)
    read_coco = f"--instances {files['instances']}"
    assert_fails(capsys, [*split, f"--json={files['instances']}", argv[2]], read_coco)
    for text in (
        "[]",
        '{"images": []}',
        '{"images": {}, "annotations": []}',
        '{"images": [], "annotations": [1]}',
    ):
        files["captions"].write_text(text)
        assert_fails(capsys, argv, f"--captions {files['captions']}")
    assert_fails(
        capsys,
        coco.write([7], [image(7)], captions, [box(1, 8, [1, 1, 5, 5])]),
        "the same split",
        "annotation of an unknown image instances.json annotations[0]",
    )
    assert_fails(
        capsys,
        coco.write([7], [{"id": 7}], captions),
        "no image has a caption",
        "malformed entry images[0]",
    )
    assert not coco.out.exists()


def test_a_changed_size_writes_the_shard_again(coco):
    argv = coco.write([7], [image(7, width=80)], [caption(1, 7, "dog")], [box(1, 7, [1, 1, 5, 5])])
    assert main(argv) == 0
    assert all_records(coco.out)[0].regions == ()
    (coco.out / "manifest.json").unlink()  # as if stopped before the end
    assert main(coco.write([7], [image(7)], [caption(1, 7, "dog")], [box(1, 7, [1, 1, 5, 5])])) == 0
    assert len(all_records(coco.out)[0].regions) == 1
