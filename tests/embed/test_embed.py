"""`python -m timix_jax.embed`: rows in the order of paths, odd files, killed and shared work, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from photo_folders import picture, png_header, run_embed, write_photos, write_tar
from repository import ROOT
from saved_model import save_model

import timix_jax
from timix_jax.embed import engine, inputs
from timix_jax.embed.layout import EmbeddingFolder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(workdir):
    return timix_jax.load(workdir)


def read(out, kind):
    files = sorted((out / kind).iterdir())
    return np.concatenate([np.load(file) for file in files])


def metadata(out):
    tables = [pq.read_table(file).to_pydict() for file in sorted((out / "metadata").iterdir())]
    return {name: [v for table in tables for v in table[name]] for name in tables[0]}


def assert_same_files(one, other):
    names = sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(other)) for p in other.rglob("*") if p.is_file())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_rows_are_those_of_encode_in_the_order_of_paths(workdir, model, tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 25)
    out = tmp_path / "out"
    assert run_embed(photos, f"--model={workdir}", f"--out={out}", "--part-size=11") == 0
    assert [p.name for p in sorted((out / "img_emb").iterdir())] == [
        f"img_emb_{part}.npy" for part in range(3)
    ]
    rows = metadata(out)
    paths = sorted(str(path) for path in photos.rglob("*.png"))
    assert rows["image_path"] == paths
    images, texts = read(out, "img_emb"), read(out, "text_emb")
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(images, model.encode_image(paths), atol=1e-6)
    for row, caption, path in zip(texts, rows["caption"], paths, strict=True):
        index = int(path[-7:-4])
        expected = f"a red square near the sea {index}" if index % 3 == 0 else None
        assert caption == expected
        want = np.zeros(model.embed_dim) if caption is None else model.encode_text(caption)[0]
        np.testing.assert_allclose(row, want, atol=1e-6)
    printed = capsys.readouterr().out
    assert "25 of 25 images | part 3 of 3" in printed
    assert "3 of 3 parts, 0 files skipped" in printed
    index = json.loads((out / "index.json").read_text())
    assert index["model"].endswith("checkpoints/00000003")


@pytest.mark.parametrize(("count", "batches"), [(16, [8, 8]), (17, [8, 8, 1]), (3, [3])])
def test_no_batch_is_run_for_nothing(workdir, tmp_path, monkeypatch, count, batches):
    """A part that ends with a full batch is as long as its images."""
    model = timix_jax.load(workdir, batch_size=8)
    run, sizes = model.towers.images, []

    def seen(pixels):
        def noted():
            for batch in pixels:
                sizes.append(len(batch))
                yield batch

        return run(noted())

    monkeypatch.setattr(model.towers, "images", seen)
    parts = inputs.find_parts(str(write_photos(tmp_path / "photos", count)), 100)
    out = EmbeddingFolder(tmp_path / "out", len(parts))
    out.start({})
    engine.embed_parts(model, parts, range(len(parts)), out, lambda line: None)
    assert sizes == batches
    assert len(read(tmp_path / "out", "img_emb")) == count


@pytest.fixture
def odd_folder(tmp_path):
    folder = write_photos(tmp_path / "odd", 4)
    good = picture(1)
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "UPPER.PNG").write_bytes(good)
    (folder / "wrong_suffix.jpg").write_bytes(good)
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "in it.png").write_bytes(good)
    (folder / "nowhere.png").symlink_to(folder / "none.png")
    (folder / "notes.md").write_text("not an image")
    (folder / ".hidden.png").write_bytes(good)
    (folder / "new\nline <b>&\u202e.png").write_bytes(good)
    os.mkfifo(folder / "pipe.png")
    with open(os.fsencode(folder) + b"/bad\xff.png", "wb") as file:
        file.write(good)
    (folder / "big.png").write_bytes(png_header(60_000, 60_000))
    return folder


def test_odd_files_are_skipped_and_listed(workdir, model, odd_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_embed(odd_folder, f"--model={workdir}", f"--out={out}", "--part-size=5") == 0
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    reasons = {entry["path"].rpartition("/")[2]: entry["reason"] for entry in listed}
    assert sorted(reasons) == [
        *("big.png", "cut.png", "empty.jpg", "nowhere.png", "page.jpg", "pipe.png"),
    ]
    assert reasons["nowhere.png"] == "cannot be read: No such file or directory"
    assert reasons["pipe.png"].startswith("not a regular file")
    assert "no supported format" in reasons["page.jpg"]
    embedded = metadata(out)["image_path"]
    names = sorted(path.rpartition("/")[2] for path in embedded)
    assert len(embedded) == len(read(out, "img_emb")) == 4 + 5
    for name in ("UPPER.PNG", "wrong_suffix.jpg", "in it.png", "bad\\udcff.png"):
        assert name in names
    assert embedded == sorted(embedded)
    printed = capsys.readouterr().out
    assert "6 files skipped" in printed
    assert "× cannot be read, such as" in printed


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_work_continues_after_a_kill(workdir, tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", 30)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = (photos, f"--model={workdir}", "--part-size=7")
    assert run_embed(*arguments, f"--out={whole}") == 0
    write = EmbeddingFolder.write

    def die_in_part_two(folder, part, rows):
        if part == 2:  # half of its files are there
            np.save(folder.file("img_emb", part), rows.images[:3])
            raise KilledError
        write(folder, part, rows)

    monkeypatch.setattr(EmbeddingFolder, "write", die_in_part_two)
    with pytest.raises(KilledError):
        run_embed(*arguments, f"--out={killed}")
    done = {p: p.stat().st_mtime_ns for p in (killed / "metadata").iterdir()}
    assert len(done) == 2
    monkeypatch.setattr(EmbeddingFolder, "write", write)
    read_paths = []
    read_item = inputs.read_item
    monkeypatch.setattr(engine, "read_item", lambda i: read_paths.append(i.path) or read_item(i))
    assert run_embed(*arguments, f"--out={killed}") == 0
    assert len(read_paths) == 30 - 2 * 7  # complete parts are not read again
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
    assert_same_files(whole, killed)
    assert run_embed(*arguments, f"--out={killed}") == 0  # nothing left to do
    assert_same_files(whole, killed)


@pytest.mark.slow
def test_hosts_share_the_parts(workdir, tmp_path):
    photos = write_photos(tmp_path / "photos", 30)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    arguments = (photos, f"--model={workdir}", "--part-size=7")
    assert run_embed(*arguments, f"--out={whole}") == 0
    for share in ("1/2", "0/2"):
        assert run_embed(*arguments, f"--out={shared}", f"--share={share}") == 0
    assert_same_files(whole, shared)


def test_tar_shards_are_parts(workdir, model, tmp_path):
    shards = tmp_path / "shards"
    write_tar(
        shards / "00000.tar",
        {
            "000.png": picture(0),
            "000.txt": b"a red square",
            "001.jpg": b"no image",
            "002.PNG": picture(2),
            "003.txt": b"no image either",
        },
    )
    write_tar(shards / "00001.tar", {"000.png": picture(5), "000.json": b'{"caption": "a boat"}'})
    write_tar(shards / "00002.tar", {"000.png": picture(6)})
    data = (shards / "00002.tar").read_bytes()
    (shards / "00002.tar").write_bytes(data[:600])  # cut within the picture
    out = tmp_path / "out"
    for images in (f"{shards}/{{00000..00002}}.tar", shards):
        assert run_embed(images, f"--model={workdir}", f"--out={out}") == 0
    rows = metadata(out)
    names = [path.removeprefix(f"{shards}/") for path in rows["image_path"]]
    assert names == ["00000.tar/000.png", "00000.tar/002.png", "00001.tar/000.png"]
    assert rows["caption"] == ["a red square", None, "a boat"]
    expected = model.encode_image([picture(0), picture(2), picture(5)])
    np.testing.assert_allclose(read(out, "img_emb"), expected, atol=1e-6)
    assert np.load(out / "img_emb" / "img_emb_2.npy").shape == (0, model.embed_dim)
    assert not (out / "text_emb" / "text_emb_2.npy").exists()
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [entry["path"].removeprefix(f"{shards}/") for entry in listed] == [
        *("00000.tar/001.jpg", "00000.tar/003", "00002.tar"),
    ]
    assert "truncated tar" in listed[2]["reason"]


@pytest.mark.slow
def test_a_killed_process_continues(workdir, tmp_path):
    photos = write_photos(tmp_path / "photos", 600)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [str(photos), f"--model={workdir}", "--part-size=20"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "timix_jax.embed", *arguments]
    process = subprocess.Popen([*command, f"--out={killed}"], env=environment)
    while process.poll() is None and len(list(killed.glob("metadata/*.parquet"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(list(killed.glob("metadata/*.parquet"))) < 30
    for out in (killed, whole):
        subprocess.run([*command, f"--out={out}"], env=environment, check=True)
    for temporary in killed.rglob(".*.tmp"):  # of the file that was being written
        temporary.unlink()
    assert_same_files(whole, killed)
