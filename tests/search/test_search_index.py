"""Exact search in blocks, and folders that do not hold what they should."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from timix_jax.errors import UserError
from timix_jax.search import index as search_index
from timix_jax.search.index import EmbeddingIndex


def write_index(folder, sizes, width=16, dtype=np.float32, captions=True):
    """Write parts of random unit vectors as clip-retrieval names them, and return them joined."""
    rng = np.random.default_rng(0)
    joined, row = [], 0
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True)
    for part, size in enumerate(sizes):
        rows = rng.standard_normal((size, width))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)
        number = str(part).zfill(len(str(len(sizes) - 1)))
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows)
        names = {"image_path": [f"/photos/{row + n}.jpg" for n in range(size)]}
        if captions:
            names["caption"] = [f"caption {row + n}" if n % 2 else None for n in range(size)]
        pq.write_table(pa.table(names), folder / "metadata" / f"metadata_{number}.parquet")
        joined.append(rows)
        row += size
    return np.concatenate(joined)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sizes", [[7], [40, 1, 0, 33], [5] * 12])
def test_the_nearest_of_all_parts_and_blocks(tmp_path, monkeypatch, sizes, dtype):
    monkeypatch.setattr(search_index, "_BLOCK", 9)
    rows = write_index(tmp_path / "emb", sizes, dtype=dtype)
    index = EmbeddingIndex(tmp_path / "emb")
    assert (len(index), index.embed_dim) == (sum(sizes), 16)
    query = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    query /= np.linalg.norm(query)
    cosines = rows.astype(np.float64) @ query
    for k in (1, 5, 1000):
        hits = index.nearest(query, k)
        expected = np.argsort(-cosines, kind="stable")[:k]
        assert [hit.row for hit in hits] == expected.tolist()
        np.testing.assert_allclose([hit.score for hit in hits], cosines[expected], atol=1e-6)
        assert [hit.path for hit in hits] == [f"/photos/{row}.jpg" for row in expected]
    assert {hit.caption for hit in hits} >= {None, "caption 1"}


def test_equal_images_come_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "_BLOCK", 4)
    rows = write_index(tmp_path / "emb", [10])
    rows[:] = rows[3]
    np.save(tmp_path / "emb" / "img_emb" / "img_emb_0.npy", rows)
    hits = EmbeddingIndex(tmp_path / "emb").nearest(rows[3], 6)
    assert [hit.row for hit in hits] == list(range(6))


def test_rows_that_are_not_numbers_come_last(tmp_path):
    rows = write_index(tmp_path / "emb", [10])
    rows[2] = np.nan
    np.save(tmp_path / "emb" / "img_emb" / "img_emb_0.npy", rows)
    hits = EmbeddingIndex(tmp_path / "emb").nearest(rows[5], 10)
    assert hits[0].row == 5
    assert hits[-1].row == 2


def test_a_part_that_is_being_written_is_left_out(tmp_path):
    write_index(tmp_path / "emb", [4, 4, 4], captions=False)
    (tmp_path / "emb" / "metadata" / "metadata_1.parquet").unlink()
    index = EmbeddingIndex(tmp_path / "emb")
    assert len(index) == 8
    hits = index.nearest(np.eye(16, dtype=np.float32)[0], 8)
    assert {hit.path for hit in hits} == {
        f"/photos/{row}.jpg" for row in (0, 1, 2, 3, 8, 9, 10, 11)
    }
    assert {hit.caption for hit in hits} == {None}


def _save(name, value):
    def damage(folder):
        np.save(folder / "img_emb" / name, value, allow_pickle=True)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "img_emb" / "img_emb_1.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
        (_save("img_emb_1.npy", np.array([{}], object)), "cannot be read"),
        (_save("img_emb_1.npy", np.zeros(5)), r"float64 \(5,\), not embeddings"),
        (_save("img_emb_1.npy", np.zeros((4, 8), np.float32)), r"widths \[8, 16\]"),
        (_save("img_emb_1.npy", np.ones((9, 16), np.float32)), "has 4 rows and its embeddings 9"),
        (lambda f: (f / "metadata" / "metadata_1.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda f: (f / "index.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "index.json").write_text('{"format": "x"}'), "is not of python -m"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    write_index(tmp_path / "emb", [4, 4])
    damage(tmp_path / "emb")
    with pytest.raises(UserError, match=message) as error:
        EmbeddingIndex(tmp_path / "emb").nearest(np.full(16, 0.25, np.float32), 8)
    assert "\n" not in str(error.value)


def test_queries_that_do_not_fit(tmp_path):
    write_index(tmp_path / "emb", [4])
    index = EmbeddingIndex(tmp_path / "emb")
    with pytest.raises(UserError, match="8 dimensions, the index in 16: give the --model"):
        index.nearest(np.zeros(8, np.float32), 3)
    with pytest.raises(UserError, match="give at least 1"):
        index.nearest(np.zeros(16, np.float32), 0)
    with pytest.raises(UserError, match="holds no embeddings of images"):
        EmbeddingIndex(tmp_path)
    with pytest.raises(UserError, match="must be a local path"):
        EmbeddingIndex("gs://bucket/emb")
