"""What the files hold after writing, resuming and failing."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.metrics import MetricsWriter, json_number, write_results


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensorboard_scalars(folder):
    """(step, tag, value) of all scalars, read from the files: TFRecord framing around protobuf."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_one_object_a_step_whatever_the_number_type(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
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
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(3, {"a": float("nan"), "b": jnp.inf, "c": np.float32("-inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 3, "a": null, "b": null, "c": null}\n'


def test_resuming_appends_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"loss": 2.0})
    path.write_bytes(path.read_bytes() + b'{"step": 3, "lo' + b"x" * 10_000)
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(3, {"loss": 3.0})
    assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3]
    path.write_bytes(b"torn first line")
    MetricsWriter(tmp_path, tensorboard=False).close()
    assert path.read_bytes() == b""


def test_values_that_are_no_scalars_are_named(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for value in (np.ones(3), "0.5", None):
            with pytest.raises(ValueError, match="'loss/itc'"):
                writer.write(1, {"loss/itc": value})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(5, {"loss/itc": 0.25, "bad": float("nan")})
        writer.write(6, {"loss/itc": 0.125})
    assert tensorboard_scalars(tmp_path / "tensorboard") == [
        (5, "loss/itc", 0.25),
        (6, "loss/itc", 0.125),
    ]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
    write_results(tmp_path / "run" / "results.json", {"r": 1.0})
    assert not (tmp_path / "run").exists()


def test_results_are_whole_or_untouched(tmp_path):
    path = tmp_path / "run" / "results.json"
    write_results(path, {"heldout/i2t_r1": np.float64(0.125), "n": 500, "auc": float("nan")})
    first = path.read_text()
    assert json.loads(first) == {"heldout/i2t_r1": 0.125, "n": 500, "auc": None}
    assert path.stat().st_mode & 0o444 == 0o444
    with pytest.raises(ValueError, match="'r'"):
        write_results(path, {"r": [1, 2]})
    assert path.read_text() == first


def test_a_failed_replacement_leaves_no_scratch_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, {"r": 1})

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("timix_jax.metrics.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(path, {"r": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert json.loads(path.read_text()) == {"r": 1}
