"""Eight fake CPU devices, parsed absl flags and a compilation cache: set before JAX starts."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Devices that reach two collectives in different orders wait for each other for ever on few cores.
    + " --xla_cpu_enable_concurrency_optimized_scheduler=false"
    # On a loaded machine eight devices on two cores come late to a collective; the default kills them after 40 s.
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + " --xla_cpu_collective_timeout_seconds=600"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags

# Grain reads absl flags at iteration time and refuses to run before they are parsed.
flags.FLAGS.mark_as_parsed()


@pytest.fixture
def x64():
    """Double precision inside one test: the golden values are float64."""
    with jax.enable_x64(True):
        yield
