"""Weights & Biases in its offline mode: what its files hold after a run, a resumption and a failure."""

import contextlib
import importlib.util
import struct
import sys

import jax
import pytest
from tiny_run import tiny_config

from timix_jax.errors import RunError, UserError
from timix_jax.reporting.metrics import MetricsWriter
from timix_jax.reporting.weights_and_biases import check_installed
from timix_jax.training.train import train_and_evaluate


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return pytest.importorskip("wandb", reason="wandb is not installed: pip install '.[test]'")


def stored(folder):
    """Return the records of each start: protocol buffers in LevelDB's framing, here in one block per file."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # as at the end of a program: its process writes the rest
    starts = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, records = path.read_bytes(), 7, []
        assert len(data) < 32768
        while place < len(data):
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            assert kind == 1, "a whole record"
            records.append(Record.FromString(data[place + 7 : place + 7 + length]))
            place += 7 + length
        starts.append(records)
    return starts


def history(records):
    """Return the logged rows as dictionaries of texts."""
    rows = [record.history.item for record in records if record.HasField("history")]
    return [
        {
            name: item.value_json
            for item in row
            if not (name := item.key or "/".join(item.nested_key)).startswith("_")
        }
        for row in rows
    ]


def run_of(records):
    (run,) = {
        record.run.run_id: record.run for record in records if record.HasField("run")
    }.values()
    return run


def exit_code(records):
    (code,) = [record.exit.exit_code for record in records if record.HasField("exit")]
    return code


def test_rows_configuration_and_project(tmp_path, offline):
    config = {"optim.lr": 0.1, "data.train": ("records:a",)}
    with MetricsWriter(tmp_path / "demo", first_step=0, wandb=True, config=config) as writer:
        writer.write(5, {"loss": 0.5, "bad": float("nan")})
        writer.write(5, {"val/i2t_r1": 0.25})
    (records,) = stored(tmp_path / "demo")
    assert history(records) == [{"step": "5", "loss": "0.5"}, {"step": "5", "val/i2t_r1": "0.25"}]
    run = run_of(records)
    assert (run.project, run.display_name) == ("timix-jax", "demo")
    assert (tmp_path / "demo" / "wandb_id.txt").read_text() == f"{run.run_id}\n"
    shown = {update.key: update.value_json for update in run.config.update}
    assert shown["optim.lr"] == "0.1"
    assert exit_code(records) == 0


def test_resumed_training_continues_the_run(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for first, lr in ((0, 0.1), (2, 0.2)):
        with MetricsWriter(tmp_path, first_step=first, wandb=True, config={"lr": lr}) as writer:
            for step in (first + 1, first + 2):
                writer.write(step, {"loss": float(step)})
    one, two = sorted(stored(tmp_path), key=lambda records: history(records)[0]["step"])
    assert run_of(one).run_id == run_of(two).run_id
    assert run_of(one).project == "mine"
    assert [row["step"] for row in history(one) + history(two)] == ["1", "2", "3", "4"]


def test_failed_training_is_marked(tmp_path, offline):
    with (
        contextlib.suppress(RuntimeError),
        MetricsWriter(tmp_path, first_step=0, wandb=True) as writer,
    ):
        writer.write(1, {"loss": 1.0})
        raise RuntimeError
    (records,) = stored(tmp_path)
    assert exit_code(records) == 1


def test_off_by_default_and_on_the_first_process_only(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(offline, "init", lambda **_: pytest.fail("was started"))
    with MetricsWriter(tmp_path, first_step=0) as writer:
        writer.write(1, {"loss": 1.0})
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "other", first_step=0, wandb=True) as writer:
        writer.write(1, {"loss": 1.0})
    assert not (tmp_path / "other").exists()


def test_a_failing_client_does_not_end_the_training(tmp_path, offline):
    with MetricsWriter(tmp_path, first_step=0, wandb=True) as writer:
        offline.run.finish()
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize(("name", "kind"), [("UsageError", UserError), ("CommError", RunError)])
def test_no_account_or_network_is_one_line(tmp_path, offline, monkeypatch, name, kind):
    def fail(**_):
        raise getattr(offline.errors, name)("No API key.\nRun wandb login.")

    monkeypatch.setattr(offline, "init", fail)
    with pytest.raises(
        kind, match=r"^config\.log\.wandb=True: No API key\. Run .*=False$"
    ) as error:
        MetricsWriter(tmp_path, first_step=0, wandb=True)
    assert type(error.value) is kind
    assert not (tmp_path / "wandb_id.txt").exists()


def test_missing_package_is_named_also_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    """Find no package in the folder `wandb`, which its runs leave in the current directory."""
    (tmp_path / "wandb").mkdir()
    own = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *own])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(
        UserError, match=r"needs the package wandb: pip install 'timix-jax\[wandb\]'"
    ):
        check_installed()


def test_missing_package_is_named_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^config\.log\.wandb=True needs the package wandb"
    ) as error:
        train_and_evaluate(tiny_config(log__wandb=True), str(tmp_path / "run"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
