"""A mistake in a recipe's own code is shown with its line, and what is wrong there."""

import pytest
from refusals import RECIPE


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
    assert message == "--config=other.py defines no get_config(); configs/demo.py shows how"


def test_a_field_that_a_recipe_of_its_own_making_gets_wrong(refused, files):
    text = "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({})\n"
    for fields, words in (
        ({"optim": {"lrr": 3}}, ["config.optim.lrr=3", "did you mean 'lr'"]),
        ({"train": {"batch_size": "8"}}, ["config.train.batch_size='8'", "expected int"]),
    ):
        (files / "own.py").write_text(text.format(fields))
        message = refused("--config=own.py")
        assert all(word in message for word in words), message
