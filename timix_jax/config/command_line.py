"""One-line errors for a command line or recipe that cannot be read.

absl and ml_collections raise errors of many kinds, which name neither the path of the field nor the line of the recipe.
"""

import ast
import linecache
import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ml_collections

from timix_jax.config.checks import default_of
from timix_jax.errors import UserError

_INSTALLED = Path(__file__).parents[2]  # holds configs/, also where pip has put it
_LIBRARIES = (Path(ml_collections.__file__).parent, Path(__file__).parents[1])
_OVERRIDE = re.compile(r"--?(?:no)?config\.(?P<field>[^=]+)(?:=(?P<value>.*))?", re.DOTALL)

_HOME = re.compile(r"^(--?config=)(~.*)$", re.DOTALL)
_WRONG_ARGUMENTS = re.compile(r"get_config\(\) (missing|takes|got)")
_UNKNOWN_KEY = re.compile(r'Key "(\w+)" does not exist')


def flag_error(error: Exception, argv: Sequence[str]) -> UserError:
    """Return a UserError that names the flag or the line of the recipe, and what is wrong there.

    Args:
      error: raised by parsing the flags.
      argv: the command line, program name first.
    """
    path = recipe_path(argv)
    if path and not Path(path).is_file():
        return UserError(_no_such_recipe(path))
    if path and str(error).endswith("has no attribute 'get_config'"):
        return UserError(f"--config={path} defines no get_config(); {example_recipe()} shows how")
    # Of the chained errors, the deepest one that passed through the recipe is its own.
    for cause in reversed(_chain(error)):
        place = _place_in_recipe(cause, path)
        if place is not None:
            return UserError(f"{place}: {_reason(cause)}")
    if path and (wrong := _wrong_call(error, _recipe(argv))):
        return UserError(wrong)
    for argument in argv[1:]:
        override = _OVERRIDE.fullmatch(argument)
        if override:
            field, value = override["field"], override["value"]
            try:
                default = default_of(field, value)
            except UserError as known:
                return known
            unreadable = isinstance(default, tuple) and not _is_literal(value)
            if unreadable or str(error).startswith(f"flag --config.{field}="):
                kind = type(default).__name__
                such = ("one", "two") if isinstance(default, tuple) and not default else default
                article = "an" if kind == "int" else "a"
                return UserError(f"config.{field}={value}: give {article} {kind} such as {such!r}")
    return UserError(_reason(error))


def with_home_folder(argv: Sequence[str]) -> list[str]:
    """Return the command line with `~` expanded in --config=~/…, which most shells leave as it is."""
    return [_HOME.sub(lambda m: m[1] + os.path.expanduser(m[2]), each) for each in argv]


def check_given_once(argv: Sequence[str]) -> None:
    """Raise a UserError for a tuple that is given twice, because ml_collections would join the two."""
    fields = [
        m["field"] for m in map(_OVERRIDE.fullmatch, argv[1:]) if m and m["value"] is not None
    ]
    for field in dict.fromkeys(fields):
        values = [
            a.partition("=")[2] for a in argv[1:] if a.lstrip("-").startswith(f"config.{field}=")
        ]
        if len(values) > 1 and isinstance(default_of(field, values[0]), tuple):
            raise UserError(
                f"config.{field} is given {len(values)} times ({' and '.join(values)}): give it once, with"
                " all its values"
            )


def _is_literal(value: str | None) -> bool:
    try:
        ast.literal_eval(value or "")
    except (SyntaxError, ValueError):
        return False
    return True


def recipe_path(argv: Sequence[str]) -> str:
    """Return the value of `--config` without the part after a colon; empty if it is missing."""
    return _recipe(argv).split(":")[0]


def example_recipe(name: str = "demo.py") -> str:
    """Return the path of one of our recipes, which is relative only where it can be opened like that."""
    path = Path("configs", name)
    return str(path if path.is_file() else _INSTALLED / path)


def check_is_recipe(value: Any, argv: Sequence[str]) -> None:
    """Raise a UserError if a recipe returned something else than a configuration."""
    if not isinstance(value, ml_collections.ConfigDict):
        kind = "None (no return?)" if value is None else f"a {type(value).__name__}"
        raise UserError(
            f"--config={_recipe(argv)}: get_config() returns {kind}; let it return an ml_collections.ConfigDict, as in"
            f" {example_recipe()}"
        )


def _recipe(argv: Sequence[str]) -> str:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            return value if equals else following
    return ""


def _no_such_recipe(path: str) -> str:
    ours = _INSTALLED / path
    if ours.is_file():  # a relative path of the documentation, used elsewhere
        return f"--config={path}: there is no such file in {Path.cwd()}; try --config={ours}"
    return f"--config={path}: there is no such file; try --config={example_recipe()}"


def _wrong_call(error: Exception, recipe: str) -> str | None:
    """Return what is wrong if get_config could not be called as --config asks for; None if it could."""
    path, _, argument = recipe.partition(":")
    for text in map(str, _chain(error)):
        if text.endswith("object is not callable"):
            return f"--config={path}: get_config is not a function; {example_recipe()} shows how"
        if not _WRONG_ARGUMENTS.match(text):
            continue
        if argument and "takes 0 positional" in text:
            return f"--config={recipe}: get_config() takes no argument; drop :{argument}"
        if not argument and "missing 1 required positional" in text:
            return (
                f"--config={path}: get_config() needs an argument; write --config={path}:ARGUMENT"
            )
        return f"--config={recipe}: {text}; let it take at most one, which --config={path}:ARGUMENT gives"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(deeper)
    return chain


def _place_in_recipe(error: BaseException, path: str) -> str | None:
    """Return `configs/demo.py:12: the line` where the recipe, or one that it imports, raised the error."""
    # A value given on the command line is compiled under the name "<...>".
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"
    frames = list(traceback.walk_tb(error.__traceback__))
    begin = next((i for i, (frame, _) in enumerate(frames) if _is_file(frame, path)), None)
    if begin is None:
        return None
    own = [(frame, line) for frame, line in frames[begin:] if not _is_library(frame)]
    frame, line = own[-1]
    name = frame.f_code.co_filename
    linecache.checkcache(name)
    return f"{name}:{line}: {linecache.getline(name, line).strip()}"


def _is_file(frame: FrameType, path: str) -> bool:
    return bool(path) and Path(frame.f_code.co_filename).resolve() == Path(path).resolve()


def _is_library(frame: FrameType) -> bool:
    path = Path(frame.f_code.co_filename)
    return any(folder in path.parents for folder in _LIBRARIES) or path.name.startswith("<frozen")


def _reason(error: BaseException) -> str:
    """Return the error's message on one line."""
    text = str(error)
    unknown = _UNKNOWN_KEY.search(text)
    if unknown:  # ConfigDict's own message continues with a list of all fields
        close = re.search(r'Did you mean "(\w+)"', text)
        return f"there is no field {unknown[1]!r}" + (
            f"; did you mean {close[1]!r}?" if close else ""
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines) or type(error).__name__
