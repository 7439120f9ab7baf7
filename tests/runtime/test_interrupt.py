"""Ctrl-C in the first seconds, in processes of their own: one line, exit code 130, never swallowed."""

import signal
import subprocess
import sys

import pytest
from repository import ROOT

from timix_jax.runtime import interrupt

BEGIN = """
import gc, hashlib, os, signal, sys, threading
sys.path.insert(0, ROOT)
from timix_jax.runtime import interrupt
interrupt.end_at_ctrl_c()
press = lambda: os.kill(os.getpid(), signal.SIGINT)
"""
# What the program is doing, and what it prints besides.
CASES = {
    # As an exception, it would only be printed there.
    "a callback that ignores exceptions": (
        "gc.callbacks.append(lambda *_: press()); gc.collect(); gc.collect(); print('swallowed')"
    ),
    "a bare except": "try:\n    press()\nexcept BaseException:\n    pass\nprint('swallowed')",
    # Python's handlers wait for the end of this call, which takes minutes.
    "a long call of C": (
        "threading.Timer(0.2, press).start(); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    ),
}


def ended(code, *wrapper):
    command = [*wrapper, sys.executable, "-c", BEGIN.replace("ROOT", repr(str(ROOT))) + code]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # The tests themselves may run as a background job, which ignores the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("case", CASES)
def test_one_line_wherever_the_program_is(case):
    run = ended(CASES[case])
    assert (run.returncode, run.stdout) == (130, "")
    assert run.stderr == f"error: {interrupt.LINE}\n"


def test_another_handler_takes_over():
    run = ended("signal.signal(signal.SIGINT, lambda *_: print('asked')); press(); print('done')")
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["asked", "done"], "")


def test_several_processes_end_in_their_own_way():
    run = ended("with interrupt.ended_by(lambda: os._exit(7)):\n    press()")
    assert run.returncode == 7


def test_an_ignored_signal_stays_ignored():
    """As for a job in the background."""
    run = ended("press(); print('done')", "sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    assert (run.returncode, run.stdout) == (0, "done\n")
