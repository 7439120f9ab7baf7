"""Built splits of the emoji scenes: determinism, separation, well-defined recall, cache."""

import itertools
import os
from collections import Counter

import cv2
import numpy as np
import pytest

from timix_jax.data.emoji import art, build, captions, concepts
from timix_jax.data.emoji.scenes import Look
from timix_jax.data.emoji.source import open_emoji
from timix_jax.data.emoji.splits import SPLITS
from timix_jax.data.emoji.workers import map_unordered
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError

SMALL = {"concepts": 60, "heldout": 20, "canvas": 48}
COUNTS = {"train": 120, "trained_vendor": 60, "heldout_vendor": 60, "heldout_concepts": 40}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def records(cache):
    return {
        split: list(_all(open_emoji(split, scenes=count, cache=str(cache), **SMALL)))
        for split, count in COUNTS.items()
    }


def _all(source):
    return (source[i] for i in range(len(source)))


def _options(split="train", scenes=24, seed=0):
    return build.BuildOptions(split, scenes, 60, 20, seed, Look(canvas=48))


def _files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _sets(record):
    shown = {region.text for region in record.regions}
    return {region.text for region in record.regions if region.captions}, shown


def test_output_does_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_SHARD_SCENES", 9)
    folders = [
        build.ensure_built(_options(), str(tmp_path / str(workers)), workers) for workers in (1, 2)
    ]
    one, two = map(_files, folders)
    assert len(one) == 3 + 2  # shards, manifest, index of annotated scenes
    assert one == two


def test_workers_report_results_errors_and_deaths():
    assert sorted(map_unordered(abs, [-3, 1, -2, 5, 4], 2)) == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="canvas=3"):
        list(map_unordered(Look, [64, 3], 2))
    with pytest.raises(UserError, match="ended with code 7"):
        list(map_unordered(os._exit, [7, 7], 2))


def test_scenes_depend_on_the_seed_but_not_on_their_number(cache, records):
    fewer = open_emoji("train", scenes=10, cache=str(cache), **SMALL)
    assert list(_all(fewer)) == records["train"][:10]
    other = open_emoji("train", scenes=10, seed=1, cache=str(cache), **SMALL)
    assert all(a.image != b.image for a, b in zip(_all(fewer), _all(other), strict=True))


def test_captions_of_several_concepts(cache, records):
    several = open_emoji("train", scenes=40, several=True, cache=str(cache), **SMALL)
    assert min(len(_sets(record)[0]) for record in _all(several)) == 2
    assert min(len(_sets(record)[0]) for record in records["train"]) == 1


def test_galleries_have_different_scenes_of_the_same_concepts(cache, records):
    scenes = {
        gallery: list(
            _all(
                open_emoji("heldout_vendor", scenes=60, gallery=gallery, cache=str(cache), **SMALL)
            )
        )
        for gallery in (0, 1, 2)
    }
    assert scenes[0] == records["heldout_vendor"]
    images = [record.image for records in scenes.values() for record in records]
    assert len(set(images)) == 3 * 60
    texts = [{r.text for record in part for r in record.regions} for part in scenes.values()]
    assert len(set.intersection(*texts)) > 30


@pytest.mark.parametrize("split", [name for name, split in SPLITS.items() if split.unique])
def test_no_caption_fits_another_test_scene(records, split):
    sets = [_sets(record) for record in records[split]]
    for (named, _), (_, shown) in itertools.permutations(sets, 2):
        assert not named <= shown


@pytest.mark.parametrize("split", COUNTS)
def test_captions_name_exactly_the_marked_regions(records, split):
    chosen = [c for part in concepts.choose_concepts(60, 20, 0) for c in part]
    by_text = {concept.phrase(): concept for concept in chosen}
    for record in records[split]:
        counts = Counter(region.text for region in record.regions if region.captions)
        phrases = [by_text[text].phrase(count) for text, count in counts.items()]
        possible = {
            template.format(things=captions.join(order), background=background)
            for template in captions.TEMPLATES
            for order in itertools.permutations(phrases)
            for background in ("plain", "shaded", "striped", "checkered", "blotched")
        }
        assert len(set(record.captions)) == 2
        assert set(record.captions) <= possible
        for region in record.regions:
            assert region.captions in ((), (0, 1))
            assert (region.text in counts) == bool(region.captions)


def test_boxes_lie_on_the_image(records):
    for record in itertools.chain(*records.values()):
        image = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (48, 48, 3)
        assert 2 <= len(record.regions) <= 5
        for x, y, w, h in (region.box for region in record.regions):
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 48
            assert min(w, h) >= 1
            assert max(w, h) >= 8


@pytest.mark.parametrize(
    ("split", "heldout", "expected"),
    [
        ("train", "Goog", {"Twtr", "Joy"}),
        ("heldout_vendor", "Goog", {"Goog"}),
        ("trained_vendor", "Twtr", {"Goog", "Joy"}),
    ],
)
def test_any_vendor_can_be_held_out(split, heldout, expected):
    assert {art.VENDORS[index] for index in SPLITS[split].vendors(heldout)} == expected


@pytest.mark.parametrize("split", COUNTS)
def test_vendors_and_concepts_of_each_split(records, split, tmp_path, monkeypatch):
    drawn = set()
    load = art.load_drawing

    def spy(key, vendor):
        drawn.add((key, vendor))
        return load(key, vendor)

    choice = concepts.choose_concepts(60, 20, 0)
    monkeypatch.setattr(build, "choose_concepts", lambda *_: choice)
    monkeypatch.setattr(art, "load_drawing", spy)
    folder = build.ensure_built(_options(split, COUNTS[split]), str(tmp_path), workers=1)
    assert folder.is_dir()
    trained, heldout = ({c.key for c in part} for part in choice)
    vendors = {vendor for _, vendor in drawn}
    keys = {key for key, _ in drawn}
    assert vendors == ({"Joy"} if split == "heldout_vendor" else {"Goog", "Twtr"})
    if split == "heldout_concepts":
        names = {c.phrase() for c in choice[1]}
        assert all(_sets(record)[0] <= names for record in records[split])
        assert keys <= trained | heldout
        assert keys & heldout
    else:
        assert keys <= trained
    if split == "train":
        assert keys == trained


def test_annotated_share_of_training_scenes(cache, records):
    del records  # requested only for the build
    share = {
        fraction: open_emoji("train", scenes=120, annotated=fraction, cache=str(cache), **SMALL)
        for fraction in (0.0, 0.2, 0.5, 1.0)
    }
    sizes = {fraction: len(source.annotated) for fraction, source in share.items()}
    assert sizes[0.0] == 0
    assert sizes[1.0] == 120
    assert 10 <= sizes[0.2] <= 40
    assert 40 <= sizes[0.5] <= 80
    assert set(share[0.2].annotated) <= set(share[0.5].annotated)
    assert (
        len(list(cache.glob("emoji/train-*/"))) == len({p.stem for p in cache.glob("emoji/t*")}) - 1
    )
    test = open_emoji("heldout_vendor", scenes=60, annotated=0.2, cache=str(cache), **SMALL)
    np.testing.assert_array_equal(test.annotated, np.arange(60))


def test_built_split_is_not_built_again(cache, records, monkeypatch):
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    spec = f"emoji:train?scenes=120&concepts=60&heldout=20&canvas=48&cache={cache}"
    source = open_source(spec)
    assert source.name == "emoji:train"
    assert source[7] == records["train"][7]


def test_interrupted_and_damaged_builds_are_repeated(tmp_path):
    options = _options(scenes=6)
    folder = tmp_path / "emoji" / options.folder_name()
    partial = folder.with_name(folder.name + ".partial-1")
    partial.mkdir(parents=True)
    (partial / "train-00000-of-00001.array_record.tmp").write_bytes(b"half")
    assert build.ensure_built(options, str(tmp_path), workers=1) == folder
    whole = _files(folder)
    assert not partial.exists()
    shard = next(folder.glob("*.array_record"))
    shard.write_bytes(shard.read_bytes()[:100])
    build.ensure_built(options, str(tmp_path), workers=1)
    assert _files(folder) == whole


def test_failed_build_leaves_nothing(tmp_path):
    """Too few held-out concepts for a test split are named."""
    options = build.BuildOptions("heldout_concepts", 200, 62, 5, 0, Look(canvas=48))
    with pytest.raises(UserError, match=r"scenes=200.*larger heldout"):
        build.ensure_built(options, str(tmp_path))
    assert not [path for path in (tmp_path / "emoji").iterdir() if path.suffix != ".lock"]


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TIMIX_CACHE", str(tmp_path / "a"))
    assert build.cache_folder() == tmp_path / "a" / "emoji"
    assert build.cache_folder(str(tmp_path / "b")) == tmp_path / "b" / "emoji"
    monkeypatch.delenv("TIMIX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / ".cache" / "timix_jax" / "emoji"


def test_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the emoji scenes.*TIMIX_CACHE"):
        build.ensure_built(_options(), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("emoji:test", "emoji:test: no such split; valid: train, trained_vendor"),
        ("emoji:train?scenes=0", "scenes=0"),
        ("emoji:train?seed=-1", "seed=-1"),
        ("emoji:train?gallery=1", "gallery=1.*no galleries"),
        ("emoji:heldout_vendor?heldout_vendor=Samsung", "heldout_vendor=Samsung.*Goog, Twtr, Joy"),
        ("emoji:train?heldout=240", "heldout=240"),
        ("emoji:train?concept=240", "did you mean 'concepts'"),
        ("emoji:train?canvas=big", "canvas='big'"),
    ],
)
def test_bad_options_are_named(spec, message, tmp_path):
    spec += ("&" if "?" in spec else "?") + f"cache={tmp_path}"
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        open_source(spec)
