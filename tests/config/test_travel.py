"""A configuration travels once: each group is read in one module of training/build, and no ConfigDict goes further."""

import ast
import dataclasses

import pytest
from repository import ROOT

from timix_jax.config import complete, default_config, flatten
from timix_jax.training.build import read_settings

PACKAGE = ROOT / "timix_jax"
BUILD = PACKAGE / "training" / "build"

# Group → the module of training/build that reads it, where its name is another one.
MODULES = {
    "seed": "settings",
    "init_from": "settings",
    "init_from_image": "settings",
    "init_from_text": "settings",
    "init_pixels": "settings",
    "augment": "data",
    "regions": "data",
    "contrastive": "losses",
    "loss": "losses",
    "eval": "evaluation",
}

# What may be handed a recipe outside config/ and training/build/.
ENTRY_POINTS = {
    "training/train.py": "train_and_evaluate",
    "training/evaluate.py": "evaluate_checkpoint",
    "inspection/info.py": "print_info",
    "inspection/compile.py": "compile_for",
}


def functions(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef)]


def recipes_of(function):
    """Names of the parameters that are annotated as ConfigDict."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {a.arg for a in arguments if a.annotation and "ConfigDict" in ast.unparse(a.annotation)}


def uses(function, names):
    """The expressions in which a parameter of these names stands, each as its parent node."""
    return [
        parent
        for parent in ast.walk(function)
        for child in ast.iter_child_nodes(parent)
        if isinstance(child, ast.Name) and child.id in names
    ]


def test_each_group_is_read_in_the_module_named_after_it():
    readers = {}
    for path in BUILD.glob("*.py"):
        for function in functions(path):
            for use in uses(function, recipes_of(function)):
                assert isinstance(use, ast.Attribute | ast.Call | ast.Assign), ast.unparse(use)
                if isinstance(use, ast.Attribute):
                    readers.setdefault(use.attr, []).append(path.stem)
    assert readers == {group: [MODULES.get(group, group)] for group in default_config()}


def test_nothing_else_sees_a_config_dict():
    named = {}
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "config") or path.is_relative_to(BUILD):
            continue
        text = path.read_text()
        module = str(path.relative_to(PACKAGE))
        assert "run.config" not in text, module
        if "ConfigDict" not in text:
            continue
        takers = [function for function in functions(path) if recipes_of(function)]
        named[module] = ", ".join(function.name for function in takers)
        mentions = text.count("ConfigDict")
        assert mentions == 1 + len(takers), f"{module}: {mentions} mentions"  # import, annotation
        for function in takers:
            for use in uses(function, recipes_of(function)):
                assert isinstance(use, ast.Call), ast.unparse(use)
                assert ast.unparse(use.func) == "read_settings"
    assert named == ENTRY_POINTS


def leaves(value, path=""):
    """`a.b.c` → value of nested dataclasses and dicts."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, x in value.items() for k, v in leaves(x, f"{path}.{name}").items()}


def test_settings_hold_every_field_under_its_name():
    settings = read_settings(default_config())
    values = leaves(dataclasses.replace(settings, flat={}))
    values = {path.replace(".loss.terms.", ".loss."): value for path, value in values.items()}
    listed = {path[1:]: list(v) if isinstance(v, tuple) else v for path, v in values.items()}
    assert listed == flatten(default_config())
    assert settings.flat == flatten(complete(default_config()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.threads", 7),
        ("mix.fraction", 0.5),
        ("optim.clip_norm", 0.25),
        ("eval.every", "7 steps"),
        ("train.accumulate", 3),
        ("checkpoint.keep_last", 9),
        ("regions.max_tokens", 11),
        ("model.image.depth", 3),
        ("loss.pta.weight", 0.75),
    ],
)
def test_a_given_value_arrives(field, value):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    settings = read_settings(config)
    assert leaves(settings)[f".{field.replace('loss.', 'loss.terms.')}"] == value
    assert settings.flat[field] == value
