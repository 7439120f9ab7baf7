"""`~` in paths of the command line, which shells expand only at the start of a word."""

import pytest


@pytest.mark.parametrize(
    "argument",
    [
        "--config.init_from=~/nowhere",
        "--config.data.train=records:~/nowhere",
        "--config.data.tokenizer=~/nowhere",
        "--config.eval.sets=val=records:~/nowhere",
        "--config.data.train=tfds:~/nowhere",
    ],
)
def test_the_home_folder_in_every_path(refused, files, monkeypatch, argument):
    monkeypatch.setenv("HOME", str(files))
    assert f"{files}/nowhere" in refused("--config=~/tiny.py", argument)


def test_the_home_folder_in_the_working_folder(refused, files, monkeypatch):
    monkeypatch.setenv("HOME", str(files / "tiny.py"))  # a file
    line = refused("--config=tiny.py", "--workdir=~/run")
    assert f"--workdir={files}/tiny.py/run cannot be written" in line
    assert "'~nobody-of-this-name/run': there is no such home folder" in refused(
        "--config=tiny.py", "--workdir=~nobody-of-this-name/run"
    )
