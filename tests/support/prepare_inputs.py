"""Inputs of the prepare command, and inspection of its output."""

import hashlib
import io
import json
import tarfile

import numpy as np
from PIL import Image

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.sources.records import RecordSource


def picture(seed, width=40, height=30, kind="JPEG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def karpathy(tmp_path, entries, images):
    """Write a JSON file and an image folder; return the options that name them."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for name, data in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": entries}))
    return ["karpathy", f"--json={file}", f"--images={folder}", "--split=train", "--workers=1"]


def entry(name, *captions, **more):
    sentences = [{"raw": caption} for caption in captions]
    return {"filename": name, "split": "train", "sentences": sentences, **more}


def contents(folder):
    """Return a digest per relative path of every file visible to the user."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".prepare" not in path.parts
    }


def all_records(folder):
    source = RecordSource(folder)
    return [source[i] for i in range(len(source))]


def assert_fails(capsys, argv, *words):
    """Run a command that must fail with code 2 and a one-line error containing `words`."""
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    for word in words:
        assert word in error


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))


def many_examples(tmp_path):
    """Return the options for 23 examples with two captions each."""
    images = {f"{i:02d}.jpg": picture(i) for i in range(23)}
    return karpathy(tmp_path, [entry(n, f"one {n}", f"two  {n}\n") for n in images], images)
