"""What `python -m timix_jax.embed` refuses, in one line and before anything is written."""

import pytest
from photo_folders import picture, run_embed, write_photos
from saved_model import save_model

from timix_jax.embed import inputs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}/none", "--model={run}", "--out={out}"], "no such file or folder"),
        (["{empty}", "--model={run}", "--out={out}"], "holds no image file"),
        (["{photos}/a/000.png", "--model={run}", "--out={out}"], "give a folder of images, or"),
        (["gs://bucket/photos", "--model={run}", "--out={out}"], "must be a local path"),
        (["{photos}", "--model={empty}", "--out={out}"], "holds no complete checkpoint"),
        (["{photos}", "--model={run}", "--out={out}", "--share=2/2"], "write K/N"),
        (["{photos}", "--model={run}", "--out={out}", "--share=1/2"], "only 1 parts"),
        (["{photos}", "--model={run}", "--out={photos}/a/000.png"], "is a file"),
        (["{photos}", "--model={run}", "--out={out}", "--part-size=0"], "give at least 1"),
        (["{photos}", "--out={out}"], "required: --model"),
    ],
)
def test_refusals_write_nothing(workdir, tmp_path, capsys, arguments, message):
    photos, empty, out = write_photos(tmp_path / "photos", 3), tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    places = {"photos": photos, "run": workdir, "out": out, "empty": empty}
    assert run_embed(*[text.format(**places) for text in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_a_folder_of_other_embeddings_is_refused(workdir, tmp_path, capsys):
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    assert run_embed(photos, f"--model={workdir}", f"--out={out}") == 0
    other = save_model(tmp_path / "other", step=4)
    assert run_embed(photos, f"--model={other}", f"--out={out}") == 2
    assert "holds embeddings of other images or another model (model:" in capsys.readouterr().err
    (photos / "a" / "new.png").write_bytes(picture(9))
    assert run_embed(photos, f"--model={workdir}", f"--out={out}") == 2
    assert "another model (images:" in capsys.readouterr().err


def test_a_failing_disk_ends_the_command_and_leaves_the_part_open(
    workdir, tmp_path, monkeypatch, capsys
):
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    read_bytes = inputs.Path.read_bytes

    def fail(path):
        if path.suffix == ".png":
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(inputs.Path, "read_bytes", fail)
    assert run_embed(photos, f"--model={workdir}", f"--out={out}") == 1
    assert "000.png cannot be read (Input/output error)" in capsys.readouterr().err
    assert not list((out / "metadata").iterdir())
