"""Processes of which one is missing or disagrees all end in time, with one line and the right exit code."""

import socket

import pytest
from process_runs import Run, free_port
from tiny_run import write_config

pytestmark = pytest.mark.slow

RUNTIME_ERROR, USER_ERROR = 1, 2


@pytest.fixture
def join(tmp_path):
    """Start `main --mode=info` as each (process, processes) and return (exit code, error line) of each."""

    def start(*members, port, timeout_s):
        recipes = []
        for number in range(len(members)):
            folder = tmp_path / str(number)
            folder.mkdir()
            recipes.append(write_config(folder / "tiny.py", steps=2))
        runs = [
            Run(
                recipe,
                tmp_path / "run",
                devices=1,
                flags=[
                    *("--mode=info", f"--coordinator=127.0.0.1:{port}", f"--process={process}"),
                    *(f"--processes={processes}", f"--connect_timeout={timeout_s}"),
                ],
            )
            for recipe, (process, processes) in zip(recipes, members, strict=True)
        ]
        ended = [run.wait(300)[0] for run in runs]
        for one in ended:
            assert "Check failure stack trace" not in one.err
            assert "Traceback" not in one.err
        lines = [
            [line for line in one.err.splitlines() if line.startswith("error")] for one in ended
        ]
        assert [len(found) for found in lines] == [1] * len(members)
        return [(one.code, found[0]) for one, found in zip(ended, lines, strict=True)]

    return start


def waited(process, processes, port, timeout_s):
    return (
        f"error: process {process} waited --connect_timeout={timeout_s} s at --coordinator=127.0.0.1:{port} for all"
        f" --processes={processes}: start all of them, give more time, or correct --coordinator or --processes"
    )


def test_a_missing_process(join):
    port = free_port()
    ended = join((0, 3), (1, 3), port=port, timeout_s=5)
    assert ended == [(RUNTIME_ERROR, waited(i, 3, port, 5)) for i in (0, 1)]


def test_a_port_in_use(join):
    with socket.create_server(("", 0), reuse_port=True) as other:  # JAX would share such a port
        port = other.getsockname()[1]
        (code, line), second = join((0, 2), (1, 2), port=port, timeout_s=5)
    assert code == RUNTIME_ERROR
    assert f"process 0 cannot listen at port {port} (Address already in use)" in line
    assert second == (RUNTIME_ERROR, waited(1, 2, port, 5))


def test_a_process_that_expects_fewer_than_process_0(join):
    port = free_port()
    ended = join((0, 3), (1, 2), port=port, timeout_s=5)
    assert ended == [(RUNTIME_ERROR, waited(i, 3 - i, port, 5)) for i in (0, 1)]


def test_a_process_that_expects_more_than_process_0(join):
    ended = join((0, 2), (1, 3), port=free_port(), timeout_s=120)
    for code, line in ended:
        assert code == USER_ERROR
        assert "process 1 was started with --mode=info, devices=1, --processes=3" in line
        assert "process 0 with --mode=info, devices=1, --processes=2" in line
