"""Devices of TPU slices that are not attached, for the compiler."""

import contextlib
import os
import re
from collections.abc import Iterator

import jax
from jax.experimental import topologies

from timix_jax.errors import UserError

EXAMPLES = "v5e:4x4, v5e:16x16, v5p:2x2x1, v5p:8x8x16, v6e:2x2, tpu7x:2x2x1"
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so several processes may compile
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def slice_devices(name: str) -> list[jax.Device]:
    """Return the devices of a slice such as `v5e:16x16`, to build a mesh on and compile for.

    Raises:
      UserError: libtpu is not installed or does not know the slice.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # libtpu crashes on slices with a side of 0.
    if not re.fullmatch(r"\w+:[1-9]\d*(x[1-9]\d*)*", name):
        raise UserError(f"--topology={name!r}: give a slice such as {EXAMPLES}")
    # JAX sees the two cores of a v4 chip as one device.
    options = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    try:
        with _quiet():
            topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:
        cause = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise UserError(
            f"--topology={name!r}: {cause}; install libtpu (pip install libtpu, Linux x86-64), and give a slice "
            f"such as {EXAMPLES}"
        ) from error
    return list(topology.devices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence libtpu, which writes warnings about the missing machine straight to file descriptor 2."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
