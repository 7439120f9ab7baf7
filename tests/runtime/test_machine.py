"""CPU cores and memory that this process may use."""

import os
import subprocess
import sys

import pytest

from timix_jax.errors import UserError
from timix_jax.runtime.machine import available_cores, check_fits_memory


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no core can be taken from a process"
)
def test_affinity_limits_the_cores():
    program = (
        "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]);"
        "from timix_jax.runtime.machine import available_cores; print(available_cores())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "800000 100000"}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({}, 4),
    ],
)
def test_container_quota_limits_the_cores(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == expected


def test_too_much_memory_is_refused():
    check_fits_memory(1000, "a thousand bytes")
    with pytest.raises(UserError, match=r"the score block needs about 1048576.0 GiB"):
        check_fits_memory(2**50, "the score block")
