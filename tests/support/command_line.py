"""`python -m timix_jax.main` as a process of its own."""

import os
import subprocess
import sys

from compiler_flags import EIGHT_DEVICES
from repository import ROOT


def start(*arguments, folder):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": EIGHT_DEVICES,
    }
    command = [sys.executable, "-m", "timix_jax.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
