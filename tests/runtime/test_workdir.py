"""Working folders belong to one run; logs are cut back when it resumes."""

import json
import math
import os

import pytest
from etils import epath
from tiny_run import tiny_config

from timix_jax import checkpointing
from timix_jax.config import canonical, complete, flatten
from timix_jax.errors import UserError
from timix_jax.runtime import workdir
from timix_jax.runtime.remote import as_path
from timix_jax.training.evaluate import evaluate_checkpoint
from timix_jax.training.train import train_and_evaluate

CONFIG = {"lr": 0.1, "sizes": (1, 2), "data.threads": 4, "log.every": 10, "logger": "x", "n": None}


def test_first_start_writes_the_config_and_a_second_finds_it(tmp_path):
    folder = tmp_path / "runs" / "demo"
    assert workdir.open_workdir(folder, CONFIG) is False
    assert workdir.read_config(folder) == {**CONFIG, "sizes": [1, 2]}
    before = (folder / "config.json").stat().st_mtime_ns
    assert workdir.open_workdir(folder, {**CONFIG, "sizes": [1, 2]}) is True
    assert (folder / "config.json").stat().st_mtime_ns == before


def test_fields_that_the_stored_config_lacks_had_their_defaults(tmp_path):
    workdir.open_workdir(tmp_path, CONFIG)
    defaults = {"lr": 5.0, "added": (1, 2)}
    assert workdir.open_workdir(tmp_path, {**CONFIG, "added": (1, 2)}, defaults=defaults)
    with pytest.raises(UserError, match=r"\(added: \[1, 2\] there, \[3\] now\)"):
        workdir.open_workdir(tmp_path, {**CONFIG, "added": (3,)}, defaults=defaults)
    with pytest.raises(UserError, match=r"\(added: absent there, \[1, 2\] now\)"):
        workdir.open_workdir(tmp_path, {**CONFIG, "added": (1, 2)})


def test_another_config_is_refused_with_both_values_and_changes_nothing(tmp_path):
    workdir.open_workdir(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "lr": 0.2, "sizes": (1, 3), "log.every": 20, "added": True}
    del other["n"]
    with pytest.raises(UserError) as error:
        workdir.open_workdir(tmp_path, other, ignore=("log",))
    message = str(error.value)
    assert "\n" not in message
    assert f"--workdir={tmp_path} belongs to a run with another configuration" in message
    assert (
        "(lr: 0.1 there, 0.2 now; sizes: [1, 2] there, [1, 3] now; added: absent there, true now;"
        " n: null there, absent now)" in message
    )
    assert "choose another --workdir" in message
    assert (tmp_path / "config.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["config.json"]


def test_ignored_prefixes_are_whole_names():
    changed = {**CONFIG, "log.every": 1, "data.threads": 1}
    assert workdir.config_differences(CONFIG, changed, ("log", "data.threads")) == []
    changed["logger"] = "y"
    lines = workdir.config_differences(CONFIG, changed, ("log", "data"))
    assert lines == ['logger: "x" there, "y" now']


def test_values_are_compared_as_json_and_true_is_not_one():
    assert workdir.config_differences({"a": 1, "b": [1]}, {"a": 1.0, "b": (1,)}) == []
    assert workdir.config_differences({"a": math.nan}, {"a": math.nan}) == []
    assert workdir.config_differences({"a": 1}, {"a": True}) == ["a: 1 there, true now"]


def test_only_the_first_differences_are_listed(tmp_path):
    workdir.open_workdir(tmp_path, {f"f{i}": 0 for i in range(9)})
    with pytest.raises(UserError, match=r"f4: 0 there, 1 now; and 4 more\)"):
        workdir.open_workdir(tmp_path, {f"f{i}": 1 for i in range(9)})


def test_file_in_place_of_the_folder_and_broken_config_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file is a file"):
        workdir.open_workdir(tmp_path / "file", CONFIG)
    with pytest.raises(UserError, match="holds no run"):
        workdir.read_config(tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json"):
            workdir.open_workdir(tmp_path, CONFIG)
        assert (tmp_path / "config.json").read_text() == text


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_after_the_step_and_an_incomplete_last_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entries = [{"start": 1}, *({"step": s, "text": "\u2028"} for s in (1, 2, 3, 4, 2, 5))]
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    path.write_text(text + '{"step": 1, "lo')
    assert workdir.truncate_jsonl(path, 3) == 3
    kept = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert [entry.get("step") for entry in kept] == [None, 1, 2, 3, 2]
    assert path.read_text().endswith("}\n")
    with path.open("a") as file:
        file.write('{"step": 4}\n')
    before = path.stat().st_ino
    assert workdir.truncate_jsonl(path, 4) == 0
    assert path.stat().st_ino == before


def test_broken_lines_in_the_middle_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "x\n\xff\xfe\n3\n{"step": "x"}\n{"step": 4}\n')
    assert workdir.truncate_jsonl(path, 4) == 4
    assert lines_of(path) == [{"step": 1}, {"step": 4}]


def test_missing_and_empty_files_are_unchanged(tmp_path):
    assert workdir.truncate_jsonl(tmp_path / "none.jsonl", 3) == 0
    assert not os.listdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert workdir.truncate_jsonl(tmp_path / "empty.jsonl", 3) == 0


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("400", "400 steps"),
        ("400 steps", "400"),
        ("1 step", "1"),
        ("1_000 steps", "1e3"),
        ("30 epochs", "30.0epoch"),
        ("5%", "5.0 %"),
    ],
)
def test_one_duration_written_differently_is_one_configuration(tmp_path, stored, given):
    before = flatten(complete(tiny_config())) | {"train.duration": stored, "optim.warmup": stored}
    workdir.open_workdir(tmp_path, before)
    after = before | {"train.duration": given, "optim.warmup": given}
    assert workdir.open_workdir(tmp_path, after, canonical=canonical)
    assert workdir.read_config(tmp_path) == before


def test_other_durations_are_other_configurations_and_lengthening_says_how(tmp_path):
    stored = {"train.duration": "400 steps", "seed": 1}
    workdir.open_workdir(tmp_path, stored)
    for given in ("401", "400 epochs", "nonsense"):
        with pytest.raises(UserError, match=r"train\.duration: \"400 steps\" there") as caught:
            workdir.open_workdir(tmp_path, stored | {"train.duration": given}, canonical=canonical)
        assert f"another --workdir and --config.init_from={tmp_path}" in str(caught.value)
    with pytest.raises(UserError, match="seed: 1 there, 2 now") as caught:
        workdir.open_workdir(tmp_path, stored | {"seed": 2})
    assert "init_from" not in str(caught.value)


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/x") == workdir.absolute("~/x") == epath.Path(tmp_path / "x")
    assert as_path("a/~/x") == epath.Path("a/~/x")
    assert as_path("./~x") == epath.Path("~x")
    with pytest.raises(UserError, match=r"'~nobody-of-this-name/x': .* or \./~nobody-of"):
        as_path("~nobody-of-this-name/x")


@pytest.mark.parametrize("data", [b"garbage", b"\xff\xfe\x00"])
def test_damaged_tokenizer_of_a_run_is_named(tmp_path, data):
    config = complete(tiny_config())
    workdir.open_workdir(tmp_path, flatten(config))
    (tmp_path / workdir.TOKENIZER_FILE).write_bytes(data)
    with pytest.raises(UserError, match=rf"^{tmp_path}/tokenizer\.json: not a tokenizer\.json \("):
        train_and_evaluate(config, str(tmp_path))


def test_damaged_tokenizer_of_a_checkpoint_is_named(tmp_path, monkeypatch):
    step_folder = epath.Path(tmp_path) / "7"
    monkeypatch.setattr(checkpointing, "read_newest", lambda folder, read: read(step_folder))
    monkeypatch.setattr(checkpointing, "read_meta", lambda path: {"tokenizer": "garbage"})
    with pytest.raises(UserError, match=rf"^checkpoint {tmp_path}/7: not a tokenizer\.json \("):
        evaluate_checkpoint(tiny_config(), str(tmp_path))
