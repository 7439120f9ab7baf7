"""Start the scripts of launch/."""

import os
import subprocess
import time

from repository import ROOT

LAUNCH = ROOT / "launch"

TPU = {"ZONE": "us-west4-a", "TYPE": "v5litepod-16"}


def environment(settings, path=None):
    """Return our environment without variables that affect the scripts, plus the settings."""
    kept = ("HOME", "LANG", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    paths = [str(path)] if path else []
    return {**env, "PATH": os.pathsep.join([*paths, os.environ["PATH"]]), **settings}


def launch(arguments, settings=None, path=None, **options):
    command = ["bash", str(LAUNCH / arguments[0]), *arguments[1:]]
    env = environment(settings or {}, path)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, **options)


def executable(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def wait_for(path, seconds=30):
    for _ in range(seconds * 20):
        if path.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(path)
