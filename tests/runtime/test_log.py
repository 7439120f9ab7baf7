"""Printing where standard output is closed, full, or cannot show Greek; the filter of the log."""

import os
import subprocess
import sys

import pytest
from process_runs import environment_of

PROGRAM = """
import sys
from timix_jax.runtime.log import print_text
if "closed" in sys.argv:
    sys.stdout = None
for _ in range(3):
    print_text("τ 0.07 → 0.05 · " + "x" * 100)
print("went on", file=sys.stderr)
"""


def printed(stdout, *arguments, **variables):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    env = environment_of(1) | variables
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=env, text=False)


def lost(kind):
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("kind", ["full", "nobody reads"])
def test_lost_output_is_reported_once_and_the_run_continues(kind):
    stdout = lost(kind)
    done = printed(stdout)
    os.close(stdout)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert said.count("standard output is lost") == 1
    assert "went on" in said
    assert "Traceback" not in said


def test_closed_output():
    done = printed(subprocess.DEVNULL, "closed")
    assert done.returncode == 0
    assert done.stderr == b"went on\n"


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("latin-1", b"tau 0.07 -> 0.05 * "), ("utf-8", "τ 0.07 → 0.05 · ".encode())],
)
def test_terminal_without_greek(encoding, line):
    done = printed(subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith(line)


OWN_LINES = """
from absl import logging
from timix_jax.distributed import cluster
from timix_jax.runtime.log import show_own_lines
logging.use_absl_handler()  # as app.run does
show_own_lines()
exec(compile("logging.info('own line')", cluster.__file__, "exec"))
logging.info("a library's line")
logging.warning("a library's warning")
"""


def test_only_info_lines_of_this_package_are_shown():
    done = subprocess.run(
        [sys.executable, "-c", OWN_LINES], env=environment_of(1), capture_output=True, text=True
    )
    assert "own line" in done.stderr
    assert "a library's warning" in done.stderr
    assert "a library's line" not in done.stderr
