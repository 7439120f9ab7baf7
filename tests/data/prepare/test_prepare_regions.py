"""The prepare command's side files of regions."""

import json

import pytest
from prepare_inputs import assert_fails, many_examples

from timix_jax.data.prepare.__main__ import main
from timix_jax.data.sources.records import RecordSource


@pytest.fixture
def many(tmp_path):
    return many_examples(tmp_path)


def test_side_file_may_be_a_list_with_several_entries_per_key(tmp_path, many):
    file = tmp_path / "r.json"
    parts = [{"text": "ear", "box": [0, 0, 4, 4]}, {"text": "tail", "box": [5, 5, 4, 4]}]
    file.write_text(json.dumps([{"key": "03.jpg", "regions": [part]} for part in parts]))
    out = tmp_path / "out"
    assert main([*many, f"--out={out}", f"--regions={file}", "--num-shards=2"]) == 0
    source = RecordSource(out)
    assert source.annotated.tolist() == [3]
    assert [region.text for region in source[3].regions] == ["ear", "tail"]


def test_side_file_that_matches_nothing_is_reported(tmp_path, many, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text('{"key": "3", "regions": [{"text": "ear", "box": [0, 0, 4, 4]}]}')
    assert main([*many, f"--out={tmp_path / 'out'}", f"--regions={file}"]) == 0
    assert f"warning: --regions {file}: no key" in capsys.readouterr().err


def test_side_file_with_byte_order_mark_and_line_separator(tmp_path, many):
    file = tmp_path / "r.jsonl"
    line = '{"key": "03.jpg", "regions": [{"text": "ear\u2028left", "box": [0, 0, 4, 4]}]}'
    for text in (line, f"[\n{line}\n]"):
        file.write_text("\ufeff" + text, encoding="utf-8")
        out = tmp_path / f"out{len(text)}"
        assert main([*many, f"--out={out}", f"--regions={file}"]) == 0
        assert [region.text for region in RecordSource(out)[3].regions] == ["ear left"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"key": "a", "regions": []}\n\n{"key" "b"}\n', "line 3 column 8: Expecting ':'"),
        ('\n[\n{"key": "a", "regions": []},\n{"key" "b"}]', "line 4 column 8: Expecting ':'"),
        ('{"key": "a", "regions": []}\n' + "[" * 100_000, "line 2: "),
    ],
)
def test_broken_json_in_a_side_file_is_located(tmp_path, many, capsys, text, where):
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    argv = [*many, f"--out={tmp_path / 'out'}", f"--regions={file}"]
    assert_fails(capsys, argv, f"--regions {file}: {where}", "JSON lines")
