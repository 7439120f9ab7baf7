"""What a run prints, where standard output cannot take it."""

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
def test_a_lost_screen_is_said_once_and_the_run_goes_on(kind):
    stdout = lost(kind)
    done = printed(stdout)
    os.close(stdout)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert said.count("standard output is lost") == 1
    assert "went on" in said
    assert "Traceback" not in said


def test_no_screen_at_all():
    done = printed(subprocess.DEVNULL, "closed")
    assert done.returncode == 0
    assert done.stderr == b"went on\n"


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("latin-1", b"tau 0.07 -> 0.05 * "), ("utf-8", "τ 0.07 → 0.05 · ".encode())],
)
def test_a_screen_without_greek(encoding, line):
    done = printed(subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith(line)
