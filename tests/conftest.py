"""Eight fake CPU devices, short compilations and parsed absl flags: set before JAX starts."""

import gc
import os

from compiler_flags import EIGHT_DEVICES

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + EIGHT_DEVICES
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags
from places import loopback, namespaces  # noqa: F401 - fixtures
from refusals import files, refused  # noqa: F401 - fixtures
from tiny_model import compiler_settings

# XLA reads its flags now. The TPU compiler, which is loaded later, would end the process over those it does not know.
jax.devices()
del os.environ["XLA_FLAGS"]

# Grain reads absl flags at iteration time and refuses to run before they are parsed.
flags.FLAGS.mark_as_parsed()


# Files that take a minute and more; before them the profiler, which once ended a worker behind a thousand tests.
FIRST = (
    "test_profiling",
    "test_train",
    "test_benchmarks",
    "test_gcs",
    "test_faults",
    "test_train_step",
    "test_several_processes",
    "test_layout",
    "test_process_faults",
    "test_configs",
    "test_step_programs",
    "test_preemption",
)


def pytest_collection_modifyitems(items):
    """Long files early: a worker takes whole files, and one that comes last keeps one core busy and the other idle."""
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(FIRST)))


@pytest.fixture
def x64():
    """Double precision inside one test: the golden values are float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_end_with_their_module():
    """Each compiled program takes memory maps, of which Linux gives a process 65,530: without them LLVM crashes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def fast_compilation():
    """For modules that run each of their programs a few times."""
    with compiler_settings():
        yield
