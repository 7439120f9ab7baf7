"""Whole runs on one of the eight devices."""

import contextlib
from collections.abc import Iterator

import jax
import pytest

from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh
from timix_jax.training.build import checks


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Build runs for the first device, whatever their mesh: a step compiles in half the time."""
    layout = Layout(make_mesh(jax.devices()[:1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "build_layout", lambda mesh, devices: layout)
        yield
