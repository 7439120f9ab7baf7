"""The tree as docs/architecture.md describes it: imports point one way, files are short, tests mirror packages."""

import ast
import functools
import re
from pathlib import Path

import pytest
from repository import ROOT

PACKAGE = ROOT / "timix_jax"
TESTS = ROOT / "tests"

# The packages of `data`: each may import only those before it.
DATA_RANKS = tuple(
    (name,)
    for name in ("records", "tokenizers", "images", "sources", "loading", "prepare", "emoji")
)
# Libraries that one package wraps, and the parts of others that need them.
WRAPPED = {
    "flax": ("models", "training/state.py"),
    "orbax": ("checkpointing",),
}
# Test folders that mirror no package: code that tests share, recorded numbers, and programs outside the package.
OTHER_TESTS = {"support", "fixtures", "benchmarks", "launch"}

PYTHON_FILES = sorted([*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")])


def documented_ranks() -> tuple[tuple[str, ...], ...]:
    """Return the numbered list in docs/architecture.md of which each line may import only earlier ones."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    order = text[text.index("Imports point one way") :].split("\n\n")[1]
    return tuple(tuple(re.findall(r"`(\w+)`", line)) for line in order.splitlines())


@functools.cache
def imported_modules(path: Path) -> tuple[str, ...]:
    """Return the full name of each module that a file imports, and of each name that it imports from one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def parts(folder: Path) -> set[str]:
    """Return the names of the modules and packages directly in a folder."""
    found = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    return found | {path.parent.name for path in folder.glob("*/__init__.py")}


@pytest.mark.parametrize(
    ("package", "ranks"), [("timix_jax", documented_ranks()), ("timix_jax.data", DATA_RANKS)]
)
def test_imports_point_to_lower_ranks(package, ranks):
    folder = ROOT.joinpath(*package.split("."))
    rank = {name: number for number, names in enumerate(ranks) for name in names}
    assert parts(folder) == set(rank)
    depth = package.count(".") + 1
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for module in imported_modules(path):
            names = module.split(".")
            if module.startswith(f"{package}.") and names[depth] in rank:
                other = names[depth]
                assert other == own or rank[other] < rank[own], f"{path} imports {module}"


@pytest.mark.parametrize("library", WRAPPED)
def test_library_is_imported_by_its_package_only(library):
    for path in PACKAGE.rglob("*.py"):
        if library in {module.split(".")[0] for module in imported_modules(path)}:
            assert path.relative_to(PACKAGE).as_posix().startswith(WRAPPED[library]), path


def test_few_modules_lie_outside_the_packages():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_files_are_short():
    lines = {path: path.read_text().count("\n") for path in PYTHON_FILES}
    assert not {str(path): count for path, count in lines.items() if count > 300}


def test_files_are_named_for_what_they_hold():
    vague = ("util", "helper", "misc", "common")
    assert not [path for path in PYTHON_FILES if any(word in path.stem for word in vague)]


def test_test_folders_mirror_the_packages():
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if folder.parts and folder.parts[0] not in OTHER_TESTS:
            assert (PACKAGE / folder / "__init__.py").exists(), path
    tested = {path.parent.relative_to(TESTS).parts[:1] for path in TESTS.rglob("test_*.py")}
    assert {(path.parent.name,) for path in PACKAGE.glob("*/__init__.py")} <= tested


def test_test_files_have_names_of_their_own():
    """Without `__init__.py` pytest imports them by their names alone."""
    names = [path.name for path in TESTS.rglob("*.py")]
    assert sorted(names) == sorted(set(names))
