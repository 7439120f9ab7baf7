"""A benchmark that is started with a mistake says so in one line, as the program itself does."""

import runpy
import sys

import pytest
from repository import ROOT

MISTAKES = {
    "compare_mixers": ("--config", "no_such_recipe.py"),
    "contrastive_memory": ("--devices", "4096"),
    "evaluation": ("--config", "no_such_recipe.py"),
    "first_step": ("--config", "no_such_recipe.py"),
    "input_pipeline": ("no_such_folder",),
    "loop": ("--config", "no_such_recipe.py"),
    "pipeline_vs_step": ("--config", "no_such_recipe.py"),
    "step": ("--config", "no_such_recipe.py"),
}


def refusal(name, arguments, monkeypatch, capsys):
    """Return a benchmark's standard error when it exits with the code of a user error."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)  # it runs as the program
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, monkeypatch, capsys):
    error = refusal(name, MISTAKES[name], monkeypatch, capsys)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert MISTAKES[name][-1] in error


def test_a_mistake_in_a_recipe_names_its_line(tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from timix_jax.config import default_config\n\ndef get_config():\n"
        "    c = default_config()\n    c.train.batchsize = 8\n    return c\n"
    )
    error = refusal("loop", ("--config", str(recipe)), monkeypatch, capsys)
    assert error.startswith(f"error: {recipe}:5:")
    assert "batchsize" in error
