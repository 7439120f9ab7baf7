"""The prepare command's format `karpathy`."""

import json

import pytest
from prepare_inputs import all_records, assert_fails, entry, karpathy, picture

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.records.manifest import read_manifest
from timix_jax.data.records.schema import Region


def test_karpathy(tmp_path, capsys):
    images = {"sub/a.jpg": picture(0), "b.png": picture(1, kind="PNG"), "c.jpg": picture(2)}
    entries = [
        entry("a.jpg", "a dog", "two dogs", filepath="sub"),
        entry("b.png", "a cat", regions=[{"text": "tail", "box": [1, 2, 3, 4]}]),
        entry("c.jpg", "validation") | {"split": "val"},
    ]
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}"]) == 0
    first, second = all_records(out)
    assert first == ("sub/a.jpg", images["sub/a.jpg"], ("a dog", "two dogs"), ())
    assert second == ("b.png", images["b.png"], ("a cat",), (Region("tail", (1, 2, 3, 4)),))
    manifest = read_manifest(out)
    assert manifest["name"] == "out"
    assert manifest["image_sizes"] == {
        "min_width": 40, "min_height": 30, "max_width": 40, "max_height": 30,
    }  # fmt: skip
    assert manifest["skipped"] == manifest["dropped"] == {}
    assert "2 images, 3 captions, 1 regions" in capsys.readouterr().out


def test_unusable_input_is_counted_and_named(tmp_path, capsys):
    good = picture(0)
    flipped = bytearray(good)
    flipped[len(good) // 2 : len(good) // 2 + 40] = b"\xff\xd9" * 20
    images = {"good.jpg": good, "cut.jpg": good[: len(good) // 2], "empty.jpg": b""}
    images |= {"text.jpg": b"<html>", "flip.jpg": bytes(flipped), "mute.jpg": good}
    entries = [entry(name, "a caption") for name in images if name not in ("good.jpg", "mute.jpg")]
    entries += [
        entry("good.jpg", " ", "kept", "", regions=[
            {"text": "", "box": [0, 0, 5, 5]}, {"text": "far", "box": [50, 0, 5, 5]},
            {"text": "edge", "box": [-5, 20, 15, 20]},
        ]),
        entry("mute.jpg", "", "  "), entry("gone.jpg", "x"), entry("../out.jpg", "x"),
        {"filename": "odd.jpg", "split": "train"},
    ]  # fmt: skip
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", "--num-shards=3"]) == 0
    (record,) = all_records(out)
    assert (record.key, record.captions) == ("good.jpg", ("kept",))
    assert record.regions == (Region("edge", (0, 20, 10, 10)),)
    manifest = read_manifest(out)
    counts = {reason: found["count"] for reason, found in manifest["skipped"].items()}
    assert counts == {
        "corrupt image": 4, "malformed entry": 1, "missing image": 1, "no caption": 1,
        "unsafe path": 1,
    }  # fmt: skip
    dropped = {reason: found["count"] for reason, found in manifest["dropped"].items()}
    assert dropped == {"empty caption": 4, "empty region text": 1, "region outside the image": 1}
    named = " ".join(manifest["skipped"]["corrupt image"]["first"])
    assert all(name in named for name in ("cut.jpg", "empty.jpg", "text.jpg", "flip.jpg"))
    assert manifest["skipped"]["missing image"]["first"] == ["gone.jpg: No such file or directory"]
    assert "skipped 1 × missing image: gone.jpg" in capsys.readouterr().out


def test_text_that_utf8_cannot_encode_is_repaired(tmp_path):
    """Use lone surrogates, which JSON can escape, in captions, file names and region texts."""
    half = [{"text": "\ud83d tail", "box": [0, 0, 5, 5]}]
    entries = [
        entry("a.jpg", "a \ud83d dog", "a \ud83d\udc15", regions=half),
        entry("b\ud800.jpg", "x"),
        entry("a.jpg", "y", regions=[{"text": "far", "box": [10**400, 0, 5, 5]}]),
        entry("c.jpg", "none", regions=None),
    ]
    out = tmp_path / "out"
    assert (
        main(
            [
                *karpathy(tmp_path, entries, dict.fromkeys(["a.jpg", "c.jpg"], picture(0))),
                f"--out={out}",
            ]
        )
        == 0
    )
    first, last = all_records(out)
    assert first.captions == ("a � dog", "a 🐕")
    assert first.regions[0].text == "� tail"
    assert last.captions == ("none",)
    skipped = read_manifest(out)["skipped"]
    assert {reason: found["count"] for reason, found in skipped.items()} == {
        "malformed entry": 1,
        "missing image": 1,
    }


def test_entries_of_one_image_become_one_example(tmp_path):
    """Merge them, since separate examples would be negatives of each other in loss and retrieval."""
    images = {"sub/a.jpg": picture(0), "b.jpg": picture(1)}
    part = lambda text: [{"text": text, "box": [0, 0, 5, 5]}]
    entries = [
        entry("a.jpg", "one", filepath="sub", regions=part("ear")),
        entry("b.jpg", "other"),
        entry("sub/a.jpg", "two", regions=part("tail")),
        entry("./sub/a.jpg", "of another split") | {"split": "val"},
    ]
    side = tmp_path / "r.jsonl"
    side.write_text(json.dumps({"key": "sub/a.jpg", "regions": part("leg")}))
    out = tmp_path / "out"
    assert main([*karpathy(tmp_path, entries, images), f"--out={out}", f"--regions={side}"]) == 0
    first, second = all_records(out)
    assert (first.key, first.captions) == ("sub/a.jpg", ("one", "two"))
    assert [region.text for region in first.regions] == ["ear", "leg", "tail"]
    assert second.key == "b.jpg"


def test_malformed_entries_are_explained(tmp_path, capsys):
    bad = [{"filename": "a.jpg"}, {"sentences": []}, {"filename": "b.jpg", "sentences": ["text"]}]
    argv = karpathy(tmp_path, [{"split": "train", **e} for e in bad], {})
    end = f"--out={tmp_path / 'out'}"
    assert_fails(capsys, [*argv, end], 'the first: malformed entry a.jpg: has no list "sentences"')
    argv = karpathy(
        tmp_path,
        [entry("c.jpg", "c"), *({"split": "train", **e} for e in bad)],
        {"c.jpg": picture(0)},
    )
    assert main([*argv, end]) == 0
    assert read_manifest(tmp_path / "out")["skipped"]["malformed entry"]["first"] == [
        'a.jpg: has no list "sentences"',
        'images[2]: "filepath" \'\' and "filename" None must be strings',
        'b.jpg: one of its "sentences" has no string "raw"',
    ]


@pytest.mark.parametrize(
    ("encoding", "works"), [("latin-1", False), ("utf-8-sig", True), ("utf-16", True)]
)
def test_encoding_of_the_json(tmp_path, capsys, encoding, works):
    entries = [entry("a.jpg", "café"), *(entry(f"{i}.jpg", "a long file") for i in range(1000))]
    argv = [*karpathy(tmp_path, entries, {"a.jpg": picture(0)}), f"--out={tmp_path / 'out'}"]
    file = tmp_path / "captions.json"
    text = json.dumps({"images": entries}, ensure_ascii=False)
    file.write_bytes(text.encode(encoding))
    if works:
        assert main(argv) == 0
        assert all_records(tmp_path / "out")[0].captions == ("café",)
    else:
        assert_fails(capsys, argv, "not UTF-8 (0xe9 in byte", "iconv -f latin1")
        assert main(argv) == 2
        assert len(capsys.readouterr().err) < 300 + len(str(file))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"images": 1e400', "5", "null"])
def test_broken_json_is_one_short_line(tmp_path, capsys, text):
    argv = [*karpathy(tmp_path, [], {}), f"--out={tmp_path / 'out'}"]
    (tmp_path / "captions.json").write_text(text)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --json {tmp_path / 'captions.json'}: not ")
    assert error.count("\n") == 1
    assert len(error) < 300
