"""A mistake in a recipe's own code is shown with its line, and what is wrong there."""

import pytest
from refusals import RECIPE
from repository import ROOT


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("c.optim.lrr = 3", ["there is no field 'lrr'; did you mean 'lr'?"]),
        ("c.optim.lr = 'fast'", ["'lr'", "fast", "float"]),
        ("c.optim.lr = = 3", ["invalid syntax"]),
        ("c.optim.lr = rate", ["'rate' is not defined"]),
    ],
)
def test_a_mistake_in_a_recipe_is_shown_with_its_line(refused, files, line, words):
    (files / "wrong.py").write_text(RECIPE.format(line=line))
    number = RECIPE.splitlines().index("    {line}") + 1
    message = refused("--config=wrong.py")
    for word in [f"wrong.py:{number}: {line}: ", *words]:
        assert word in message


def test_a_file_that_is_no_recipe(refused, files):
    (files / "other.py").write_text("x = 1\n")
    message = refused("--config=other.py")
    example = ROOT / "configs" / "demo.py"
    assert message == f"--config=other.py defines no get_config(); {example} shows how"


@pytest.mark.parametrize(
    ("recipe", "config", "said"),
    [
        ("def get_config(): return 1", "r.py:arg", "get_config() takes no argument; drop :arg"),
        ("def get_config(a): return 1", "r.py", "needs an argument; write --config=r.py:ARGUMENT"),
        ("def get_config(a, b): return 1", "r.py:x", "argument: 'b'; let it take at most one"),
        ("def get_config(*, a): return 1", "r.py", "argument: 'a'; let it take at most one"),
        ("get_config = 3", "r.py", "get_config is not a function"),
        ("get_config = 3", "r.py:x", "get_config is not a function"),
        ("def get_config(): pass", "r.py", "returns None (no return?); let it return an ml_coll"),
        ("def get_config(): return {'seed': 1}", "r.py", "returns a dict; let it return an ml_"),
        ("def get_config(x): return [x]", "r.py:x", "returns a list; let it return an ml_"),
    ],
)
def test_a_recipe_that_is_no_function_or_is_called_wrongly(refused, files, recipe, config, said):
    (files / "r.py").write_text(recipe + "\n")
    line = refused(f"--config={config}")
    assert line.startswith(f"--config={config.partition(':')[0]}")
    assert said in line


def test_a_recipe_that_is_not_there(refused, files, monkeypatch):
    ours = ROOT / "configs" / "vitb16.py"
    line = refused("--config=configs/vitb16.py")
    assert line.endswith(f"there is no such file in {files}; try --config={ours}")
    line = refused("--config=mine.py")
    assert (
        line == f"--config=mine.py: there is no such file; try --config={ours.with_name('demo.py')}"
    )
    (files / "configs").mkdir()
    (files / "configs" / "demo.py").touch()
    assert refused("--config=mine.py").endswith("try --config=configs/demo.py")


def test_a_field_that_a_recipe_of_its_own_making_gets_wrong(refused, files):
    text = "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({})\n"
    for fields, words in (
        ({"optim": {"lrr": 3}}, ["config.optim.lrr=3", "did you mean 'lr'"]),
        ({"train": {"batch_size": "8"}}, ["config.train.batch_size='8'", "expected int"]),
    ):
        (files / "own.py").write_text(text.format(fields))
        message = refused("--config=own.py")
        assert all(word in message for word in words), message
