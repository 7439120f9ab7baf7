"""Joining a run by flags, by cluster detection, or not at all."""

import os
import socket
import subprocess
import sys
import threading

import jax
import pytest
from repository import ROOT

from timix_jax.distributed import cluster
from timix_jax.errors import RUNTIME_ERROR_CODE, USER_ERROR_CODE, RunError, UserError

NO_CLUSTER = ValueError("coordinator_address should be defined.")


@pytest.fixture
def joined(monkeypatch):
    """Record calls of jax.distributed.initialize, which raises `joined.error` if that is set."""

    class Calls(list):
        error: Exception | None = None

    calls = Calls()

    def initialize(*arguments, **timeouts):
        calls.append(arguments)
        if calls.error:
            raise calls.error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    return calls


def test_flags_take_precedence_over_the_cluster(joined):
    cluster.join("auto", coordinator="host:1", processes=2, process=1)
    assert joined == [("host:1", 2, 1)]


def test_processes_of_a_cluster_are_detected(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    cluster.join("auto")
    cluster.join("on")
    assert joined == [(), ()]


def test_one_process_without_a_cluster(joined):
    joined.error = NO_CLUSTER
    cluster.join("auto")
    joined.clear()
    cluster.join("off")
    assert not joined


def test_single_slurm_task_keeps_all_its_devices(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    cluster.join("auto")
    assert not joined


def test_required_cluster_is_missing(joined):
    joined.error = NO_CLUSTER
    said = "--distributed=on: the other processes cannot be joined"
    with pytest.raises(UserError, match=said) as caught:
        cluster.join("on")
    assert caught.value.exit_code == USER_ERROR_CODE


def test_cluster_that_cannot_be_joined_is_never_ignored(joined):
    joined.error = RuntimeError("Kubernetes API Error: 403\nforbidden")
    with pytest.raises(RunError, match=r"Error: 403 forbidden.*--distributed=off"):
        cluster.join("auto")


def test_timeout_in_a_cluster_is_a_runtime_error(monkeypatch, capfd):
    ended = threading.Event()
    codes = []
    monkeypatch.setattr(cluster.os, "_exit", lambda code: (codes.append(code), ended.set()))
    monkeypatch.setattr(jax.distributed, "initialize", lambda **timeouts: ended.wait(30))
    cluster.join("on", connect_timeout_s=1)
    assert codes == [RUNTIME_ERROR_CODE]
    assert "not all processes of the cluster came within --connect_timeout=1 s" in (
        said := capfd.readouterr().err
    )
    assert "--distributed=off for a single process" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "h:1"}, "--processes=0 --process=0"),
        ({"coordinator": "h:1", "processes": 2, "process": 2}, "--processes=2 --process=2"),
        ({"processes": 2}, "needs --coordinator"),
    ],
)
def test_contradicting_flags(joined, arguments, message):
    with pytest.raises(UserError, match=message):
        cluster.join("auto", **arguments)
    assert not joined


def test_off_with_a_coordinator(joined):
    with pytest.raises(UserError, match="--distributed=off contradicts --coordinator=h:1"):
        cluster.join("off", coordinator="h:1", processes=2)


@pytest.mark.parametrize("coordinator", ["host", "host:", "host:0", "host:99999", ":12", "h:port"])
def test_malformed_coordinator(joined, coordinator):
    with pytest.raises(UserError, match=rf"^--coordinator={coordinator}: give HOST:PORT") as caught:
        cluster.join("auto", coordinator=coordinator, processes=2)
    assert caught.value.exit_code == USER_ERROR_CODE
    assert not joined


def test_error_of_jax_while_joining(joined):
    joined.error = RuntimeError("UNKNOWN: Failed to start\nRPC server")
    with pytest.raises(RunError, match=r"--coordinator=h:1: process 1 of 2 .*Failed to start RPC"):
        cluster.join("auto", coordinator="h:1", processes=2, process=1)


@pytest.mark.slow
def test_two_tasks_of_srun_find_each_other(tmp_path):
    """Two real processes of the real command line, with the variables that srun sets."""
    recipe = tmp_path / "tiny.py"
    recipe.write_text(
        "from tiny_run import tiny_config\n\ndef get_config():\n    return tiny_config()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    common = {
        **os.environ,
        **slurm,
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "XLA_FLAGS": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
    }
    command = [sys.executable, "-m", "timix_jax.main", f"--config={recipe}", "--mode=info"]
    command.append("--distributed=on")  # by default info describes one process in a Slurm job
    running = [
        subprocess.Popen(
            [*command, "--compile_cache="],
            env={**common, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for index, (printed, errors) in enumerate(outputs):
        # Only the first process prints.
        assert ("4 × cpu in 2 process(es)" in printed) == (index == 0), errors
        assert f"process {index} of 2" in errors
