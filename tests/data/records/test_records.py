"""Records, shards, the manifest, and the source that reads them."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest

from timix_jax.data.records.annotated import key_hash, select_annotated
from timix_jax.data.records.manifest import (
    MANIFEST,
    read_manifest,
    sha256_file,
    shard_name,
    write_manifest,
)
from timix_jax.data.records.schema import (
    CorruptExample,
    Record,
    Region,
    decode_record,
    encode_record,
)
from timix_jax.data.records.writer import RecordWriter
from timix_jax.data.sources.records import RecordSource
from timix_jax.errors import UserError

RECORD = Record(
    "k/1", b"\xff\xd8pixels", ("ein Löwe", "🍋"), (Region("lemon", (1, 2, 3.5, 4), (1,)),)
)


def write(folder, shards, **extra):
    summaries = []
    for index, records in enumerate(shards):
        with RecordWriter(folder / shard_name("x", index, len(shards))) as writer:
            for record in records:
                writer.write(record)
        summaries.append(writer.summary)
    return write_manifest(folder, "x", summaries, **extra)


def records(start, stop, every=2):
    regions = RECORD.regions
    return [
        Record(f"{i}", bytes([i % 256]) * 3000, ("a", "b"), regions if i % every == 0 else ())
        for i in range(start, stop)
    ]


def test_encoding_keeps_every_field():
    assert decode_record(encode_record(RECORD)) == RECORD
    assert isinstance(decode_record(encode_record(RECORD)).regions[0], Region)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"key": ""}, "key"),
        ({"image": b""}, "image"),
        ({"captions": ()}, "captions"),
        ({"captions": ("a", "  ")}, "captions"),
        ({"regions": (Region("", (0, 0, 1, 1)),)}, "region text"),
        ({"regions": (Region("a", (0, 0, 0, 1)),)}, "region box"),
        ({"regions": (Region("a", (0, 0, float("nan"), 1)),)}, "region box"),
        ({"regions": (Region("a", (0, 0, 1, 1), (2,)),)}, "region captions"),
    ],
)
def test_record_that_violates_the_schema_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        encode_record(RECORD._replace(**change))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no msgpack",
        encode_record(RECORD)[:-3],
        msgpack.packb([99, "k", b"i", ["c"], []]),
        msgpack.packb([1, "k", "text for bytes", ["c"], []]),
        msgpack.packb({"key": "k"}),
    ],
)
def test_invalid_bytes_are_a_corrupt_example(data):
    with pytest.raises(CorruptExample, match="where: not a valid record"):
        decode_record(data, "where")


def test_source_reads_in_any_order_across_shards(tmp_path):
    everything = records(0, 70)
    write(tmp_path, [everything[:30], [], everything[30:]])
    source = RecordSource(tmp_path)
    order = np.random.default_rng(0).permutation(70).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.__getitem__, order)) == [everything[i] for i in order]
    assert pickle.loads(pickle.dumps(source))[69] == everything[69]
    np.testing.assert_array_equal(source.annotated, np.arange(0, 70, 2))
    with pytest.raises(IndexError):
        source[70]


def test_annotated_shares_are_chosen_by_key_and_nested(tmp_path):
    everything = records(0, 400, every=1)
    write(tmp_path, [everything])
    half = RecordSource(tmp_path, annotated=0.5).annotated
    tenth = RecordSource(tmp_path, annotated=0.1).annotated
    expected = [i for i in range(400) if key_hash(str(i)) < 0.1 * 2**32]
    assert tenth.tolist() == expected
    assert 20 < len(tenth) < 70
    assert 150 < len(half) < 250
    assert set(tenth) <= set(half)
    assert len(RecordSource(tmp_path, annotated=0.0).annotated) == 0
    with pytest.raises(UserError, match=r"annotated=1\.5"):
        RecordSource(tmp_path, annotated=1.5)


def test_key_hash_is_fixed():
    assert [key_hash("a"), key_hash("b")] == [1431053258, 1363123709]
    assert select_annotated(np.array([[7, 0], [8, 2**32 - 1]]), 1.0).tolist() == [7, 8]


def test_manifest_counts_and_checksums(tmp_path):
    manifest = write(tmp_path, [records(0, 3), records(3, 5)], skipped={"corrupt image": 1})
    assert manifest == json.loads((tmp_path / MANIFEST).read_text()) == read_manifest(tmp_path)
    fields = ("examples", "captions", "regions", "annotated", "skipped")
    assert [manifest[f] for f in fields] == [5, 10, 3, 3, {"corrupt image": 1}]
    for entry in manifest["shards"]:
        assert sha256_file(tmp_path / entry["file"]) == entry["sha256"]
        assert (tmp_path / entry["file"]).stat().st_size == entry["bytes"]
    assert not list(tmp_path.glob("*.tmp"))


def test_flipped_byte_corrupts_only_one_example(tmp_path):
    everything = records(0, 20)
    shard = tmp_path / write(tmp_path, [everything])["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[data.index(bytes([7]) * 100) + 5] ^= 1
    shard.write_bytes(data)
    source = RecordSource(tmp_path)
    assert [source[i] for i in range(20) if i != 7] == everything[:7] + everything[8:]
    with pytest.raises(CorruptExample, match=r"\[7\]: unreadable"):
        source[7]


def test_incomplete_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no manifest"):
        RecordSource(tmp_path)
    shard = tmp_path / write(tmp_path, [records(0, 3)])["shards"][0]["file"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    # The prepare command advises the same, since it never writes into a finished folder.
    fix = "; delete the folder and prepare it again"
    with pytest.raises(UserError, match=rf"{shard.name}: {len(whole) - 1} bytes, .*{fix}"):
        RecordSource(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        RecordSource(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match="not a manifest"):
        RecordSource(tmp_path)


def test_manifest_whose_counts_disagree_is_refused(tmp_path):
    manifest = write(tmp_path, [records(0, 3), records(3, 5)])
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | {"examples": 6}))
    with pytest.raises(UserError, match="6 examples, but 5 in its shards"):
        RecordSource(tmp_path)


def test_damaged_index_of_annotated_examples_is_refused(tmp_path):
    manifest = write(tmp_path, [records(0, 9, every=1)])
    index = tmp_path / manifest["annotated_index"]["file"]
    index.write_bytes(bytes(index.stat().st_size))
    with pytest.raises(UserError, match=rf"{index.name}: damaged.*; delete the folder and prepare"):
        RecordSource(tmp_path)


def test_manifest_without_checksums_is_refused(tmp_path):
    manifest = write(tmp_path, [records(0, 3)])
    del manifest["shards"][0]["sha256"]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"not a manifest.*sha256"):
        RecordSource(tmp_path)


def test_empty_folder_is_refused(tmp_path):
    write(tmp_path, [[]])
    with pytest.raises(UserError, match="no examples"):
        RecordSource(tmp_path)


def test_error_while_writing_leaves_no_shard(tmp_path):
    writer = RecordWriter(tmp_path / "a")
    with writer:
        writer.write(RECORD)
        with pytest.raises(ValueError, match="key"):
            writer.write(RECORD._replace(key=""))
    assert writer.summary.examples == 1
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "b"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
