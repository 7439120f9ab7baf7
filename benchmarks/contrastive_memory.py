"""Memory of the contrastive losses as the global batch grows, and what partners on other devices cost.

    JAX_NUM_CPU_DEVICES=8 JAX_PLATFORMS=cpu python -m benchmarks.contrastive_memory
    JAX_NUM_CPU_DEVICES=8 JAX_PLATFORMS=cpu python -m benchmarks.contrastive_memory --batch 4096 --devices 8

Everything is compiled, nothing runs: the first table has the compiler's temporaries a device of loss
and gradients with respect to both sides' embeddings and the temperature; the second the bytes that
a device sends to others when patches are mixed, forward and backward, and with them what
`within_shard` saves.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from benchmarks import program
from timix_jax.errors import UserError
from timix_jax.mixing import Sample, build_mixer
from timix_jax.mixing.partners import Partners
from timix_jax.objectives.pairs.kinds import KINDS
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.shares import Shares
from timix_jax.objectives.pairs.similarities import Similarities
from timix_jax.objectives.pairs.sweep import Method, PairReduction
from timix_jax.objectives.pairs.targets import Pred
from timix_jax.parallel.mesh import batch_sharding, make_mesh, replicated

TARGET = 1 / 8  # of the dense loss's temporaries, for the ring at 32,768
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1}
COLLECTIVE = re.compile(
    r"= (\w+)\[([\d,]*)\]\S* (all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)"
)


class Row(NamedTuple):
    """Temporaries of one loss in bytes per device."""

    batch: int
    devices: int
    kind: str
    batch_kind: str
    method: str
    temporaries: int


def loss_temporaries(pairs: PairLoss, mesh: Mesh, batch: int, dim: int, *, mixed: bool) -> int:
    """Return bytes per device of the compiled loss and its gradients; `mixed`: TiMix's with target "pred"."""
    side = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=batch_sharding(mesh))
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))

    def loss(image: Any, mixed_image: Any, text: Any, temperature: Any, bias: Any) -> jax.Array:
        s = Similarities(image, text, temperature, bias if pairs.kind.name == "sigmoid" else None)
        if not mixed:
            return pairs.plain(s)[0]
        lam, partners = jnp.full(batch, 0.7), Partners()
        partner = partners.draw(jax.random.key(0), batch)
        shares = Shares(lam, partner, partners)
        return pairs.mixed(s._replace(image=mixed_image), Pred(), shares, s.constant())

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4)))
    memory = gradient.lower(side, side, side, number, number).compile().memory_analysis()
    assert memory is not None
    return int(memory.temp_size_in_bytes)


def loss_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per method, for each batch, number of devices and loss."""
    for devices in args.devices:
        if devices > len(jax.devices()):
            raise UserError(
                f"--devices {devices}: there are {len(jax.devices())}; set JAX_NUM_CPU_DEVICES={devices}"
            )
        mesh = make_mesh(jax.devices()[:devices])
        for batch in args.batch:
            for kind in KINDS:
                for mixed in (False, True):
                    for method in get_args(Method):
                        pairs = PairLoss(KINDS[kind], PairReduction(method, args.chunk, mesh))
                        used = loss_temporaries(pairs, mesh, batch, args.dim, mixed=mixed)
                        named = "mixed, pred" if mixed else "plain"
                        yield Row(batch, devices, kind, named, method, used)


def loss_table(rows: Sequence[Row]) -> str:
    """Return one line per loss in Markdown: MiB per device by method, and the ring's share of dense."""
    lines = [
        "| batch | devices | loss | dense, MiB | gather, MiB | ring, MiB | ring / dense |",
        "|---|---|---|---|---|---|---|",
    ]
    for first in rows[:: len(get_args(Method))]:
        used = {row.method: row.temporaries for row in rows if row[:4] == first[:4]}
        ratio = used["ring"] / used["dense"]
        target = f" (target ≤ {TARGET:.3f})" if first.batch == 32768 else ""
        mib = " | ".join(f"{used[method] / 2**20:,.1f}" for method in get_args(Method))
        lines.append(
            f"| {first.batch:,} | {first.devices} | {first.kind}, {first.batch_kind} | {mib} "
            f"| {ratio:.3f}{target} |"
        )
    return "\n".join(lines)


def exchange_bytes(mesh: Mesh, batch: int, grid: int, width: int, **options: Any) -> dict[str, int]:
    """Return collective → bytes of its results per device, for mixing and its gradient."""
    mixer = build_mixer("timix", grid=grid, shards=mesh.size, **options)
    assert mixer is not None
    sharding = batch_sharding(mesh)

    def gradient(patches: Any, scores: Any) -> Any:
        def total(patches: Any) -> jax.Array:
            mixed = mixer(jax.random.key(0), Sample(patches, scores=scores)).image
            assert mixed is not None
            return jnp.sum(jnp.square(mixed))

        return jax.grad(total)(patches)

    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for shape in ((batch, grid**2, width), (batch, grid**2))
    ]
    text = jax.jit(gradient, out_shardings=sharding).lower(*arguments).compile().as_text() or ""
    found: dict[str, int] = {}
    for dtype, shape, kind in COLLECTIVE.findall(text):
        size = math.prod(int(n) for n in shape.split(",") if n) * BYTES[dtype]
        found[kind] = found.get(kind, 0) + size
    return found


def exchange_table(mesh: Mesh, batch: int, grid: int, width: int) -> str:
    """Return one line per rule of pairing in Markdown."""
    lines = [
        f"| partner ({batch:,} images, {grid}×{grid} patches of {width}, {mesh.size} devices) "
        "| collectives | MiB per device and step |",
        "|---|---|---|",
    ]
    for partner in ("flip", "derangement"):
        for within_shard in (False, True):
            found = exchange_bytes(
                mesh, batch, grid, width, partner=partner, within_shard=within_shard
            )
            name = f"{partner}, within_shard" if within_shard else partner
            kinds = ", ".join(found) or "none"
            lines.append(f"| {name} | {kinds} | {sum(found.values()) / 2**20:,.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--dim", type=int, default=256, help="width of the embeddings")
    parser.add_argument("--chunk", type=int, default=1024, help="columns per tile")
    parser.add_argument("--exchange_batch", type=int, default=1024)
    parser.add_argument("--grid", type=int, default=16, help="patches per side")
    parser.add_argument("--width", type=int, default=768, help="width of the patch embeddings")
    args = parser.parse_args(argv)
    print(loss_table(list(loss_rows(args))))
    print()
    mesh = make_mesh(jax.devices()[: max(args.devices)])
    print(exchange_table(mesh, args.exchange_batch, args.grid, args.width))


if __name__ == "__main__":
    program.run(main)
