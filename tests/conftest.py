"""Eight fake CPU devices, quick compilation and parsed absl flags: set before JAX starts."""

import gc
import os
from pathlib import Path

from compiler_flags import EIGHT_DEVICES

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + EIGHT_DEVICES
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags
from places import loopback, namespaces  # noqa: F401 - fixtures
from refusals import files, refused  # noqa: F401 - fixtures
from shared_run import whole_run  # noqa: F401 - a fixture
from tiny_model import compiler_settings

# XLA reads its flags now. The TPU compiler, which is loaded later, would end the process over those it does not know.
jax.devices()
del os.environ["XLA_FLAGS"]

# Grain reads absl flags at iteration time and refuses to run before they are parsed.
flags.FLAGS.mark_as_parsed()

# Traces make so many objects that collecting them at the usual pace takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)

# Each compiled program takes memory maps, of which Linux gives a process 65,530: without them LLVM crashes.
MAPS = Path("/proc/self/maps")
MANY_MAPS = 35_000


@pytest.fixture
def x64():
    """Double precision inside one test: the golden values are float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_compilation(pytestconfig, tmp_path_factory):
    """Compile without optimisations, and each program once for all modules, workers and later runs of pytest.

    Most of the tests' time goes to compiling, and most programs run a few times. `pytest --cache-clear` starts afresh.
    """
    cache = getattr(pytestconfig, "cache", None)  # gone with `-p no:cacheprovider`
    folder = cache.mkdir("xla") if cache else tmp_path_factory.getbasetemp() / "xla"
    with compiler_settings(
        jax_compilation_cache_dir=str(folder),
        jax_persistent_cache_min_compile_time_secs=0.0,
    ):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_module():
    """Free the compiled programs of earlier modules before they are too many."""
    yield
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
