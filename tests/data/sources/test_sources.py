"""The registry of sources and the parsing of their options."""

import numpy as np
import pytest

from timix_jax.data import sources
from timix_jax.data.records.manifest import write_manifest
from timix_jax.data.records.schema import Record
from timix_jax.data.records.writer import RecordWriter
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError


class Probe:
    """A source that remembers how it was opened."""

    name = "probe"
    annotated = np.zeros((0,), np.int64)

    def __init__(self, argument, options):
        self.argument, self.options = argument, options

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Record("k", b"i", ("c",))


def open_probe(
    argument: str,
    *,
    size: int = 1,
    share: float = 1.0,
    noisy: bool = False,
    split: str = "train",
    limit: int | None = 5,
) -> Probe:
    return Probe(
        argument, {"size": size, "share": share, "noisy": noisy, "split": split, "l": limit}
    )


@pytest.fixture(autouse=True)
def probe(monkeypatch):
    """Register a source kind with one line that names a module and a function."""
    monkeypatch.setitem(sources.SOURCES, "probe", f"{__name__}:open_probe")


@pytest.mark.parametrize(
    ("spec", "argument", "expected"),
    [
        ("probe:", "", (1, 1.0, False, "train", 5)),
        ("probe:a/b:c", "a/b:c", (1, 1.0, False, "train", 5)),
        ("probe:?size=3&share=1e-1&noisy=True&limit=none", "", (3, 0.1, True, "train", None)),
        ("probe:x?limit=7&split=val[:3]", "x", (1, 1.0, False, "val[:3]", 7)),
    ],
)
def test_options_get_the_types_of_the_factory(spec, argument, expected):
    source = open_source(spec)
    assert source.argument == argument
    assert tuple(source.options.values()) == expected
    assert [type(v) for v in source.options.values()] == [type(v) for v in expected]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("probe", "no kind"),
        ("prob:x", "unknown kind 'prob', did you mean 'probe'"),
        ("zzz:x", "valid: emoji, probe, records, synthetic, tfds"),
        ("probe:?sise=3", "unknown option 'sise', did you mean 'size'"),
        ("probe:?argument=3", "unknown option 'argument'"),
        ("probe:?size=3.5", "size='3.5' is not a whole number"),
        ("probe:?share=much", "share='much' is not a number"),
        ("probe:?noisy=1", "noisy='1' is not true or false"),
        ("probe:?size", "'size' has no value"),
        ("probe:?size=1&size=2", "'size' given twice"),
        ("synthetic:?seed=-1", "seed=-1: needs examples >= 1"),
        ("records:", "names no folder"),
        ("records:/nowhere/at/all", "no manifest.json"),
    ],
)
def test_errors_of_specifications_are_one_line_with_the_fix(spec, words):
    with pytest.raises(UserError) as caught:
        open_source(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_records_are_opened_with_an_annotated_share(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        writer.write(Record("k", b"image", ("caption",)))
    write_manifest(tmp_path, "x", [writer.summary])
    source = open_source(f"records:{tmp_path}?annotated=0.5")
    assert (len(source), source[0].captions, source.name) == (
        1,
        ("caption",),
        f"records:{tmp_path}",
    )
