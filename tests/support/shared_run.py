"""One finished run for every module and worker: it takes longer than most tests that read it."""

import json
import os
from pathlib import Path

import pytest
from one_device import on_one_device
from tiny_run import tiny_config

from timix_jax.runtime.file_lock import exclusive_lock
from timix_jax.training.train import train_and_evaluate

WHOLE_STEPS = 6


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory, quick_compilation) -> tuple[Path, dict[str, float]]:
    """Working folder and results of a run of `WHOLE_STEPS` steps on one device; tests must not change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workdir, results = folder / "whole_run", folder / "whole_run.json"
    with exclusive_lock(folder / "whole_run.lock"):
        if not results.exists():
            with on_one_device():
                figures = train_and_evaluate(tiny_config(WHOLE_STEPS), str(workdir))
            results.write_text(json.dumps(figures))
    return workdir, json.loads(results.read_text())
