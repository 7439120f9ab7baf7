"""Ten thousand files of all kinds, killed and resumed: every good image once, in order, and every bad one listed."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from repository import ROOT
from saved_model import save_model

import timix_jax

COUNT, PART = 10_000, 500


def files_of_all_kinds(folder):
    """Write `COUNT` files, and return the paths of good ones and of bad ones, each sorted."""
    rng = np.random.default_rng(0)
    good, bad = [], []
    for index in range(COUNT):
        # The same name in every folder.
        path = folder / f"{index // 40:03d}" / f"{index % 40:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        image, buffer = Image.fromarray(pixels), io.BytesIO()
        kind = index % 25
        if kind == 1:
            image.convert("CMYK").save(buffer, "JPEG")
        elif kind == 2:
            deep = Image.fromarray(rng.integers(0, 2**16, (6, 9)).astype(np.uint16))
            deep.save(buffer, "PNG")
        elif kind == 3:
            image.convert("RGBA").save(buffer, "WEBP", lossless=True)
        elif kind == 4:
            image.convert("P").save(buffer, "GIF")
        else:
            image.save(buffer, "JPEG" if kind % 2 else "PNG")
        data = buffer.getvalue()
        if kind in (5, 6, 7):
            data = {5: b"", 6: data[: len(data) // 3], 7: b"<html>gone</html>"}[kind]
        path.write_bytes(data)
        (bad if kind in (5, 6, 7) else good).append(str(path))
    return sorted(good), sorted(bad)


@pytest.mark.slow
def test_ten_thousand_files_killed_and_resumed(tmp_path):
    run = save_model(tmp_path / "run")
    good, bad = files_of_all_kinds(tmp_path / "files")
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "timix_jax.embed", str(tmp_path / "files"), f"--model={run}"]
    command += [f"--out={out}", f"--part-size={PART}", "--compile-cache="]
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and len(list(out.glob("metadata/*.parquet"))) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(out.glob("metadata/*.parquet"))) < COUNT // PART
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert f"{COUNT // PART} of {COUNT // PART} parts, {len(bad):,} files skipped" in done.stdout
    tables = [pq.read_table(file).to_pydict() for file in sorted(out.glob("metadata/*.parquet"))]
    paths = [path for table in tables for path in table["image_path"]]
    assert paths == good
    files = sorted(out.glob("img_emb/*.npy"))
    assert [len(np.load(file)) for file in files] == [len(t["image_path"]) for t in tables]
    embeddings = np.concatenate([np.load(file) for file in files])
    some = np.random.default_rng(1).permutation(len(good))[:40]
    expected = timix_jax.load(run).encode_image([good[index] for index in some])
    np.testing.assert_allclose(embeddings[some], expected, atol=1e-6)
    lines = (out / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == bad
