"""`config.mesh`: how parameters and batches lie on the devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from timix_jax.errors import UserError, error_prefix
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh
from timix_jax.parallel.sharding import Rule


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """`config.mesh`; the size of one axis may be -1, for all remaining devices."""

    data: int
    fsdp: int
    tensor: int
    rules: tuple[Rule, ...]
    small: int

    @classmethod
    def read(cls, config: ConfigDict) -> "MeshSettings":
        """Read the group."""
        m = config.mesh
        return cls(m.data, m.fsdp, m.tensor, tuple(_rule(rule) for rule in m.rules), m.small)


def _rule(given: Any) -> Rule:
    """Return a sharding rule as nested tuples, whatever sequences the recipe has used."""
    match given:
        case [str(pattern), [*axes]]:
            return pattern, tuple(tuple(a) if isinstance(a, list) else a for a in axes)
    raise UserError(
        f"config.mesh.rules: {given!r} is not (pattern, axes); write "
        "(('mlp/up/kernel', (None, 'fsdp', 'tensor')),)"
    )


def build_layout(mesh: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Build the mesh and the sharding rules over all devices, or those given."""
    with error_prefix("config."):
        on_devices = make_mesh(
            None if devices is None else list(devices),
            data=mesh.data,
            fsdp=mesh.fsdp,
            tensor=mesh.tensor,
        )
    return Layout(on_devices, mesh.rules, mesh.small)
