"""Sources: random access to records, opened from one line of text.

To add a source, write its factory and add one line to `SOURCES`. Imports `records`, `images` and nothing above them.

**Example:**

    open_source("records:/data/coco?annotated=0.1")
    open_source("tfds:coco_captions?split=train&data_dir=/data/tfds")
    open_source("emoji:train?scenes=40000&canvas=64")
"""

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from timix_jax.data.records.schema import Record
from timix_jax.data.sources.changed_captions import CAPTION_OPTIONS, change_captions
from timix_jax.data.sources.part import PART_OPTIONS, take_part
from timix_jax.errors import UserError


class Source(Protocol):
    """Random access to records, safe to share between threads."""

    name: str  # for messages

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Record:
        """Record `index`. Raises CorruptExample if it cannot be used."""

    @property
    def annotated(self) -> np.ndarray:
        """int64 (A,) indices of the examples whose regions the trainer sees."""


# kind -> "module:function" of a factory(argument, *, option=default, …) -> Source. Factories are
# named rather than imported, so that opening one kind does not load the libraries of the others.
SOURCES: dict[str, str] = {
    "records": "timix_jax.data.sources.records:open_records",
    "tfds": "timix_jax.data.sources.tfds_source:open_tfds",
    "emoji": "timix_jax.data.emoji.source:open_emoji",
    "synthetic": "timix_jax.data.sources.synthetic:open_synthetic",
}


def open_source(spec: str) -> Source:
    """Open `kind:argument?option=value&option=value`.

    Every kind has the options `first=N`, its first N examples, `block=K/M`, the K-th of M equal blocks,
    `max_captions=N` per example, and `wrong_captions=P`, a share of examples with captions of other ones. Other option
    values are parsed as the type of the factory's keyword: int, float, bool (true, false) or str, or an optional one of
    these (none).

    Raises:
      UserError: unknown kind or option, a value of the wrong type, or an error of the factory.
    """
    kind, colon, rest = spec.partition(":")
    if not colon:
        raise UserError(f"data source {spec!r} has no kind; write {', '.join(SOURCES)} and a colon")
    if kind not in SOURCES:
        raise UserError(f"data source {spec!r}: {_unknown('kind', kind, SOURCES)}")
    module, function = SOURCES[kind].split(":")
    factory = getattr(importlib.import_module(module), function)
    argument, _, query = rest.partition("?")
    options = _parse_options(spec, query, factory)
    part = {name: options.pop(name) for name in PART_OPTIONS if name in options}
    captions = {name: options.pop(name) for name in CAPTION_OPTIONS if name in options}
    return change_captions(take_part(factory(argument, **options), part), captions)


def _parse_options(spec: str, query: str, factory: Callable[..., Source]) -> dict[str, Any]:
    hints = typing.get_type_hints(factory)
    types = {name: hints.get(name, str) for name in list(inspect.signature(factory).parameters)[1:]}
    types |= dict.fromkeys((*PART_OPTIONS, *CAPTION_OPTIONS), str)
    options: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, equals, text = item.partition("=")
        if name not in types:
            raise UserError(f"data source {spec!r}: {_unknown('option', name, types)}")
        if not equals or name in options:
            problem = "given twice" if name in options else "has no value"
            raise UserError(f"data source {spec!r}: option {name!r} {problem}; write {name}=value")
        try:
            options[name] = _parse_value(text, types[name])
        except ValueError as error:
            raise UserError(f"data source {spec!r}: option {name}={text!r} {error}") from error
    return options


def _parse_value(text: str, hint: Any) -> Any:
    alternatives = [t for t in typing.get_args(hint) or (hint,) if t is not type(None)]
    if len(alternatives) < len(typing.get_args(hint)) and text.lower() == "none":
        return None
    (kind,) = alternatives
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("is not true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"is not {'a whole' if kind is int else 'a'} number") from error


def _unknown(what: str, name: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown {what} {name!r}{hint} valid: {', '.join(names) or 'none'}"


def describe_sources(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Describe sources so that a resumed run can detect other data: size, and a digest if available."""
    return [
        {"examples": len(source), "digest": getattr(source, "digest", "")} for source in sources
    ]
