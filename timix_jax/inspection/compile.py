"""`--mode=compile`: compile the real step with the real TPU compiler, without the TPU.

python -m timix_jax.main --config=configs/vitb16.py --mode=compile --topology=v5e:16x16
"""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from timix_jax.errors import UserError
from timix_jax.inspection import hlo
from timix_jax.inspection.info import vocabulary
from timix_jax.inspection.tables import format_bytes, format_table
from timix_jax.inspection.topology import EXAMPLES, slice_devices
from timix_jax.parallel.mesh import batch_shards
from timix_jax.parallel.sharding import with_shardings
from timix_jax.reporting.progress import format_quantity
from timix_jax.runtime.devices import device_unit, hbm_bytes
from timix_jax.runtime.log import print_text
from timix_jax.training import build as experiment
from timix_jax.training.build import Settings, read_settings
from timix_jax.training.programs import run_programs


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's figures for a step on one slice.

    Attributes:
      unit: what JAX calls a device, "chip" or "core".
      devices: number of those in the slice.
      rows: examples per device.
      arguments: bytes of state and batch per device.
      temporaries: further bytes per device that the step needs.
      peak: bytes per device at the worst moment.
      hbm: memory of a device in bytes; None where the kind is unknown.
      flops: the model's FLOPs per step and device (`training.flops`).
      peak_flops: bfloat16 FLOP/s of a device; None where the kind is unknown.
      seconds: time of lowering and compilation.
    """

    topology: str
    unit: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    rows: int
    parameters: int
    arguments: int
    temporaries: int
    peak: int
    hbm: int | None
    flops: float
    peak_flops: float | None
    collectives: tuple[hlo.Collective, ...]
    seconds: float

    @property
    def fits(self) -> bool:
        """Return True if the peak is within a device's memory, or that is unknown."""
        return self.hbm is None or self.peak <= self.hbm


def compile_for(
    config: ConfigDict, workdir: str, *, topology: str = "", step_time: float = 0.0
) -> None:
    """Compile the step of `config` for a TPU slice and print what it takes.

    Args:
      config: a recipe; its data need not be present.
      workdir: unused; nothing is written.
      topology: such as `v5e:16x16`.
      step_time: seconds per step, from which a utilisation is printed; 0 for none.

    Raises:
      UserError: the slice does not exist, the configuration cannot work on it, or the step does not fit into its
        memory.
    """
    del workdir
    if not topology:
        raise UserError(f"--mode=compile needs --topology, such as {EXAMPLES}")
    if not 0 <= step_time < math.inf:
        raise UserError(f"--step_time={step_time}: give seconds per step")
    settings = read_settings(config)
    compiled = compile_step(settings, topology)
    print_text(report(compiled, step_time))
    if not compiled.fits:
        raise UserError(
            f"--topology={topology}: the step takes {format_bytes(compiled.peak)} of a {compiled.unit}'s "
            f"{format_bytes(compiled.hbm or 0)}; {memory_hints(settings, compiled.devices)}"
        )


_OUT_OF_MEMORY = re.compile(
    r"Used ([\d.]+\w+) of ([\d.]+\w+) hbm|temporaries \(([\d.]+\w+)\) exceeds available HBM \(([\d.]+\w+)\)"
)


def memory_hints(settings: Settings, devices: int) -> str:
    """Suggest settings that lower the memory of a step and are not in use yet."""
    ways = [
        "config.train.accumulate=2"
        if settings.train.accumulate == 1
        else "a higher config.train.accumulate"
    ]
    if settings.model.remat != "full":
        ways.append("config.model.remat='full'")
    if settings.contrastive.method == "dense":
        ways.append("config.contrastive.method='ring'")
    if settings.mesh.fsdp < devices:
        ways.append(f"config.mesh.fsdp={devices}")
    return f"lower config.train.batch_size, or set {', or '.join(ways)}"


def compile_step(settings: Settings, topology: str) -> Compiled:
    """Compile the step of a configuration.

    Raises:
      UserError: as `compile_for`; if the compiler itself runs out of the chip's memory, with its figures.
    """
    devices = slice_devices(topology)
    layout = experiment.check_shapes(settings, devices)
    vocab_size, _ = vocabulary(settings)
    plan = experiment.nominal_plan(settings, layout, vocab_size=vocab_size)
    state = with_shardings(plan.abstract_state, layout.shardings(plan.abstract_state))
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.batch),
        experiment.abstract_batch(settings),
    )
    step, _ = run_programs(plan).at(0)
    start = time.monotonic()
    lowered = step.lower(state, batch)
    try:
        program, text = _compile(lowered)
    except jax.errors.JaxRuntimeError as error:
        used = _OUT_OF_MEMORY.search(str(error))
        if not used:
            raise
        needed, there = (figure for figure in used.groups() if figure)
        raise UserError(
            f"--topology={topology}: the step takes {needed}iB of the {there}iB that a"
            f" {device_unit(devices[0])} leaves to it; {memory_hints(settings, len(devices))}"
        ) from error
    seconds = time.monotonic() - start
    memory = program.memory_analysis()
    return Compiled(
        topology=topology,
        unit=device_unit(devices[0]),
        devices=len(devices),
        mesh=dict(layout.mesh.shape),
        batch_size=plan.batch_size,
        rows=plan.batch_size // batch_shards(layout.mesh),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        hbm=hbm_bytes(devices[0]),
        flops=plan.step_flops() / len(devices),
        peak_flops=plan.peak_flops,
        collectives=tuple(hlo.collectives(text)),
        seconds=seconds,
    )


def _compile(lowered: jax.stages.Lowered) -> tuple[Any, str]:
    """Return the program and its HLO as dumped by the compiler: jaxlib cannot read every newer libtpu's."""
    with tempfile.TemporaryDirectory() as folder:
        program = lowered.compile(
            compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        )
        modules = Path(folder).glob("*.after_optimizations.txt")
        return program, max((module.read_text() for module in modules), key=len)


def report(compiled: Compiled, step_time: float = 0.0) -> str:
    """Return the text that `compile_for` prints."""
    c = compiled
    axes = ", ".join(f"{axis} {size}" for axis, size in c.mesh.items())
    share = (
        f" of {format_bytes(c.hbm)}: {c.peak / c.hbm:.0%}"
        if c.hbm
        else f"; the {c.unit}'s memory is not known"
    )
    lines = [
        f"slice           {c.topology}: {c.devices} {c.unit}s; mesh {axes}",
        f"global batch    {c.batch_size:,}, {c.rows:,} per {c.unit}",
        f"parameters      {format_quantity(c.parameters, '')}",
        f"state and batch {format_bytes(c.arguments)} per {c.unit}",
        f"temporaries     {format_bytes(c.temporaries)} per {c.unit}",
        f"peak            {format_bytes(c.peak)} per {c.unit}{share}"
        f"{'' if c.fits else '  DOES NOT FIT'}",
        f"compute         {format_quantity(c.flops, 'FLOP')} per step and {c.unit}, without rematerialised passes",
    ]
    if c.peak_flops:
        best = c.flops / c.peak_flops
        lines.append(
            f"                {best:.3g} s per step at the peak of {format_quantity(c.peak_flops, 'FLOP/s')}"
        )
        if step_time:
            lines.append(f"                MFU {best / step_time:.1%} at {step_time:g} s per step")
    lines += [
        f"compiled in     {c.seconds:.0f} s",
        "",
        f"collectives per step, bytes of their results per {c.unit}:",
        collective_table(c.collectives),
    ]
    return "\n".join(lines)


def collective_table(collectives: Sequence[hlo.Collective]) -> str:
    """Return one row per kind and purpose: instructions, how often they run, bytes per step."""
    rows: dict[tuple[str, str], list[int]] = {}
    for one in collectives:
        row = rows.setdefault((one.kind, purpose(one)), [0, 0, 0])
        row[0] += 1
        row[1] += one.runs
        row[2] += one.runs * one.bytes
    table: list[Sequence[Any]] = [
        (kind, what, f"{count:,}", f"{runs:,}", format_bytes(size))
        for (kind, what), (count, runs, size) in sorted(rows.items())
    ]
    return format_table(("kind", "purpose", "in the program", "per step", "bytes"), table)


def purpose(collective: hlo.Collective) -> str:
    """Return the purpose of a collective, judged by the operation that it comes from."""
    source, kind = collective.source, collective.kind
    # A ring of two devices mirrors, too.
    passed_on = source.endswith("ppermute")
    if "partner_exchange" in source or (collective.mirrors and not passed_on):
        return "mixing partners"
    if "pair_sums" in source:
        return "contrastive loss"
    if "hard_negatives" in source:
        return "hard negatives"
    if kind == "collective-permute":
        # The compiler reduces and scatters a weight's gradient around a ring, piece by piece of its own product.
        of_weights = re.search(r"transpose\(.*/dot_general$", source)
        return "gradients" if of_weights and collective.is_ring_step else "resharding"
    if kind == "all-gather" and ("gather_parameters" in source or "state.params" in source):
        return "parameters"
    if kind in ("all-reduce", "reduce-scatter") and "transpose(" in source:
        return "gradients"
    return "other"
