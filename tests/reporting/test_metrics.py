"""Contents of the files after writing, resuming and failing."""

import json
import pathlib
import struct
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer

from timix_jax.distributed import processes
from timix_jax.errors import RunError
from timix_jax.reporting.metrics import (
    MetricsWriter,
    json_number,
    over_processes,
    write_results,
)


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensorboard_events(folder):
    """Read the events in the order they were written: protobuf messages framed as TFRecords."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def tensorboard_scalars(folder):
    return [
        (event.step, value.tag, value.simple_value)
        for event in tensorboard_events(folder)
        for value in event.summary.value
    ]


def purged_from(folder):
    """Return the steps from which readers drop what the files hold from before."""
    return [e.step for e in tensorboard_events(folder) if e.HasField("session_log")]


def test_one_object_per_step_whatever_the_number_type(tmp_path):
    with MetricsWriter(tmp_path, first_step=0, tensorboard=False) as writer:
        writer.write(1, {"loss": jnp.float32(0.1), "lr": 1e-3, "n": np.int64(7), "ok": True})
        # Flushed: readable while the run goes on.
        assert read_jsonl(tmp_path / "metrics.jsonl") == [
            {"step": 1, "loss": 0.1, "lr": 1e-3, "n": 7, "ok": True}
        ]
        writer.write(np.int32(2), {"loss": jnp.bfloat16(0.5)})
    assert read_jsonl(tmp_path / "metrics.jsonl")[1] == {"step": 2, "loss": 0.5}


def test_float32_survives_exactly():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    read = [json.loads(json.dumps(json_number("x", value))) for value in values]
    np.testing.assert_array_equal(np.asarray(read, np.float32), values)
    assert json_number("x", 1 / 3) == 1 / 3


def test_non_finite_is_null(tmp_path):
    with MetricsWriter(tmp_path, first_step=0, tensorboard=False) as writer:
        writer.write(3, {"a": float("nan"), "b": jnp.inf, "c": np.float32("-inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 3, "a": null, "b": null, "c": null}\n'


def test_resuming_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path, first_step=0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    path.write_bytes(path.read_bytes() + b'{"step": 4, "lo')
    with MetricsWriter(tmp_path, first_step=2) as writer:
        writer.write(3, {"loss": 30.0})
    assert [(line["step"], line["loss"]) for line in read_jsonl(path)] == [(1, 1), (2, 2), (3, 30)]
    assert purged_from(tmp_path / "tensorboard") == [3]


def test_values_that_are_not_scalars_are_named(tmp_path):
    with MetricsWriter(tmp_path, first_step=0, tensorboard=False) as writer:
        for value in (np.ones(3), "0.5", None):
            with pytest.raises(ValueError, match="'loss/itc'"):
                writer.write(1, {"loss/itc": value})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard(tmp_path):
    with MetricsWriter(tmp_path, first_step=0) as writer:
        writer.write(5, {"loss/itc": 0.25, "bad": float("nan")})
        writer.write(6, {"loss/itc": 0.125})
    assert tensorboard_scalars(tmp_path / "tensorboard") == [
        (5, "loss/itc", 0.25),
        (6, "loss/itc", 0.125),
    ]


@pytest.mark.parametrize("file", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_line_whichever_file_meets_it_first(tmp_path, monkeypatch, capfd, file):
    full = pathlib.Path("/dev/full")
    if file == "tensorboard":
        monkeypatch.setattr(record_writer, "open_file", lambda path: full.open("wb"))
    before = set(threading.enumerate())
    with MetricsWriter(tmp_path, first_step=0) as writer:
        if file == "metrics.jsonl":
            writer._file = full.open("w")
        said = rf"^{tmp_path}/{file} cannot be written \(No space left on device\): free space"
        with pytest.raises(RunError, match=said):
            writer.write(1, {"loss": 1.0})
        writer.write(2, {"loss": 1.0})  # closed: nothing happens
    assert capfd.readouterr() == ("", "")
    assert set(threading.enumerate()) <= before  # others may have ended meanwhile


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run", first_step=0) as writer:
        writer.write(1, {"loss": 1.0})
    write_results(tmp_path / "run" / "results.json", {"r": 1.0})
    assert not (tmp_path / "run").exists()


def test_results_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/results\.json cannot be written \(File exists\)"):
        write_results(tmp_path / "file" / "results.json", {"r": 1.0})


def test_results_are_whole_or_untouched(tmp_path):
    path = tmp_path / "run" / "results.json"
    write_results(path, {"heldout/i2t_r1": np.float64(0.125), "n": 500, "auc": float("nan")})
    first = path.read_text()
    assert json.loads(first) == {"heldout/i2t_r1": 0.125, "n": 500, "auc": None}
    assert path.stat().st_mode & 0o444 == 0o444
    with pytest.raises(ValueError, match="'r'"):
        write_results(path, {"r": [1, 2]})
    assert path.read_text() == first


def test_one_process_logs_its_own_metrics():
    own = {"loss": 1.0, "skipped_examples": 3, "data_wait": 0.2}
    assert over_processes(own) == (own, None)


def test_the_first_process_logs_the_metrics_of_all(monkeypatch):
    others = {
        1: {"skipped_examples": 5, "data_wait": 0.7, "host_memory_peak_gib": 1.0},
        2: {"skipped_examples": 0, "host_memory_peak_gib": 9.0},  # has not measured a wait yet
    }
    shared = {}

    def latest(topic, value):
        shared[topic] = value
        return {0: value, **others}

    monkeypatch.setattr(processes, "latest", latest)
    own = {"loss": 1.0, "skipped_examples": 3, "data_wait": 0.2, "host_memory_peak_gib": 2.0}
    metrics, slowest = over_processes(own)
    assert shared == {"log": {name: own[name] for name in own if name != "loss"}}
    assert slowest == 1
    expected = {"skipped_examples": 8, "data_wait": 0.7, "host_memory_peak_gib": 9.0}
    assert metrics == {"loss": 1.0} | expected
