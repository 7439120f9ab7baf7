"""Prompts of classes, and classes that a tokenizer cannot tell apart."""

import dataclasses

import pytest
from absl import logging
from lookup_model import GreySource, inputs_of, make_mesh

from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.errors import UserError
from timix_jax.evaluators.prompts import Prompts, merge_equal_classes

WORDS = "a photo of a cat dog sunglasses maple tree grey wolf the big"


def merged(classes, templates=("a photo of a {}",), kind="wordpiece", max_tokens=16):
    tokenizer = train_tokenizer([WORDS, WORDS.upper()], kind=kind, vocab_size=400)
    inputs = inputs_of(GreySource([[1]]), make_mesh(1))
    inputs = dataclasses.replace(inputs, tokenizer=tokenizer, max_tokens=max_tokens)
    return merge_equal_classes(Prompts("records:x", classes, templates), inputs).tolist()


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: lines.append(text % args))
    return lines


@pytest.mark.parametrize(
    ("classes", "options", "numbers", "named"),
    [
        (["Cat", "cat", "dog"], {}, [0, 0, 1], "2 of 3: 'Cat' = 'cat'; to"),
        (["cat", "猫", "犬"], {}, [0, 1, 1], "2 of 3: '猫' = '犬'; to"),
        (["maple tree", "maple_tree", "tree"], {}, [0, 0, 1], "'maple tree' = 'maple_tree'"),
        (["cat ", "cat", "dog"], {}, [0, 0, 1], "'cat ' = 'cat'"),
        (["cat", "grey wolf big", "grey wolf the"], {"max_tokens": 8}, [0, 1, 1], "'grey wolf big' ="),
        # One template is enough to tell classes apart.
        (["cat", "Cat", "dog"], {"kind": "bpe"}, [0, 1, 2], None),
        (
            ["big cat", "big dog", "tree"],
            {"max_tokens": 8, "templates": ("a photo of the {}", "{}")},
            [0, 1, 2],
            None,
        ),
    ],
)  # fmt: skip
def test_classes_with_the_same_tokens_are_merged_and_named(
    warnings, classes, options, numbers, named
):
    assert merged(classes, **options) == numbers
    assert len(warnings) == (named is not None)
    assert named is None or (named in warnings[0] and warnings[0].startswith("records:x: "))


def test_many_groups_are_shortened(warnings):
    merged([f"{letter}{case}" for letter in "abcdefgh" for case in "tT"])
    assert warnings[0].count(" = ") == 5
    assert " and 3 more; " in warnings[0]


def test_templates_that_leave_no_place_for_the_class_are_refused():
    with pytest.raises(UserError, match=r"^records:x: the prompts of all 2 classes") as error:
        merged(["cat", "dog"], ("a big photo of the big grey wolf {}",), max_tokens=6)
    assert "max_tokens" in str(error.value)
    assert "\n" not in str(error.value)


def test_underscores_in_names_are_spaces():
    prompts = Prompts("records:x", ["maple_tree", "_cat_"], ("a {}.", "{} {}"))
    assert prompts[0].captions == ("a maple tree.", "maple tree maple tree")
    assert prompts[1].captions == ("a cat.", "cat cat")
    assert (len(prompts), prompts.annotated.tolist()) == (2, [])
