"""Command lines that must be refused: one line, exit code 2, nothing written."""

import hashlib
import importlib.util
import json
import sys

import pytest
from absl import flags

from timix_jax import main
from timix_jax.config import complete, flatten
from timix_jax.data.records.manifest import FORMAT, VERSION

RECIPE = """
from timix_jax.config import default_config

def get_config():
    c = default_config()
    c.data.train = ("synthetic:?examples=32&size=32",)
    c.data.vocab_size = 128
    c.model.image.size = 32
    c.model.image.patch = 8
    c.model.image.width = 32
    c.model.image.depth = 2
    c.model.image.heads = 2
    c.model.image.mlp_dim = 64
    c.model.text.max_tokens = 12
    c.model.text.width = 32
    c.model.text.depth = 1
    c.model.text.heads = 2
    c.model.text.mlp_dim = 64
    c.model.embed_dim = 16
    c.model.tpp_layer = 0
    c.train.batch_size = 8
    c.train.duration = "2 steps"
    c.optim.warmup = "1 step"
    {line}
    return c
"""


@pytest.fixture
def files(tmp_path):
    """A folder with a recipe, a records folder without examples and a run of another configuration."""
    (tmp_path / "tiny.py").write_text(RECIPE.format(line=""))
    empty = tmp_path / "empty"
    empty.mkdir()
    manifest = {"format": FORMAT, "version": VERSION, "examples": 0, "shards": []}
    (empty / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "another").mkdir()
    spec = importlib.util.spec_from_file_location("tiny", tmp_path / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = flatten(complete(module.get_config())) | {"seed": 7}
    (tmp_path / "another" / "config.json").write_text(json.dumps(stored))
    return tmp_path


def contents(folder):
    """Every file of a folder with the digest of its bytes; every folder too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def refused(files, monkeypatch, capfd):
    """Runs a command line that must be refused, and returns its one line."""
    monkeypatch.chdir(files)

    def run(*arguments):
        before = contents(files)
        monkeypatch.setattr(sys, "argv", ["main", *arguments, "--compile_cache="])
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main.run()
        finally:
            forget_flags()
        lines = capfd.readouterr().err.splitlines()
        assert ended.value.code == 2, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert contents(files) == before
        return lines[0].removeprefix("error: ")

    return run


def forget_flags():
    """As in a fresh process: flags not yet parsed, no overrides of the configuration, no recipe loaded."""
    sys.modules.pop("config_config", None)
    for name in list(flags.FLAGS):
        if name.startswith("config."):
            delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    flags.FLAGS["config"].unparse()
    flags.FLAGS.mark_as_parsed()
