"""The imports between the packages of `data` point one way, as its docstring promises."""

import ast
from pathlib import Path

import timix_jax.data

FOLDER = Path(timix_jax.data.__file__).parent
ORDER = ("records", "tokenizers", "images", "sources", "loading", "prepare", "emoji")
ABOVE = ("evaluators", "inspection", "models", "objectives", "training")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_packages_import_only_those_before_them():
    assert {path.parent.name for path in FOLDER.glob("*/__init__.py")} == set(ORDER)
    for position, package in enumerate(ORDER):
        allowed = {f"timix_jax.data.{name}" for name in ORDER[: position + 1]}
        for path in (FOLDER / package).rglob("*.py"):
            for module in imported_modules(path):
                if module.startswith("timix_jax.data"):
                    assert ".".join(module.split(".")[:3]) in allowed, f"{path} imports {module}"


def test_data_imports_nothing_above_it():
    for path in FOLDER.rglob("*.py"):
        for module in imported_modules(path):
            assert not module.startswith(tuple(f"timix_jax.{name}" for name in ABOVE)), path
