"""``python -m timix_jax.main`` as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from compiler_flags import EIGHT_DEVICES

ROOT = Path(__file__).parents[1]


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
