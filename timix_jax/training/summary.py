"""The summary of a run, printed before its first step."""

from collections.abc import Mapping, Sequence

import jax

from timix_jax.reporting.progress import format_quantity
from timix_jax.training.build import Experiment
from timix_jax.training.state import TrainState


def run_summary(run: Experiment, state: TrainState, workdir: str) -> str:
    """Return the `startup_summary` of a run that starts, or resumes, at `state.step`."""
    step = int(state.step)
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in state.params.items()
    }
    return startup_summary(
        f"TiMix-JAX: {f'resuming at step {step}' if step else 'training'}",
        devices=list(run.mesh.devices.flat),
        mesh_shape=dict(run.mesh.shape),
        data={source.name: len(source) for source in run.sources},
        parameters={name: size for name, size in sizes.items() if size > 1},  # towers, no scalars
        batch_size=run.batch_size,
        total_steps=run.total_steps,
        examples=run.examples,
        flops_per_step=run.step_flops(step),
        peak_flops=run.peak_flops,
        workdir=workdir,
    )


def startup_summary(
    title: str,
    *,
    devices: Sequence[jax.Device],
    mesh_shape: Mapping[str, int],
    data: Mapping[str, int],
    parameters: Mapping[str, int],
    batch_size: int,
    total_steps: int,
    examples: int,
    flops_per_step: float,
    peak_flops: float | None = None,
    workdir: str = "",
) -> str:
    """Format the summary.

    Args:
      title: its first line.
      devices: all devices of the mesh.
      mesh_shape: axis → size; axes of size 1 are not shown.
      data: name (`train`, `heldout_vendor`) → its number of examples.
      parameters: tower → number of parameters.
      batch_size: images per step, over all devices.
      total_steps: the last step.
      examples: size of the training set.
      flops_per_step: of the first step, over all devices.
      peak_flops: FLOP/s of one device, or None if it is not known.
      workdir: the working folder.
    """
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh_shape.items() if size > 1)
    processes = len({device.process_index for device in devices})
    where = f"{len(devices)} × {devices[0].device_kind}" + (f" ({axes})" if axes else "")
    where += f" in {processes} processes" if processes > 1 else ""
    towers = ", ".join(f"{tower} {format_quantity(n)}" for tower, n in parameters.items())
    images = total_steps * batch_size
    compute = f"{format_quantity(flops_per_step, 'FLOP')} per step"
    if peak_flops:
        compute += f"; peak {format_quantity(peak_flops, 'FLOP/s')} per device"
    epochs = f" = {images / examples:.3g} epochs" if examples else ""
    rows = {
        "devices": where,
        "data": ", ".join(f"{name} {count:,}" for name, count in data.items()),
        "parameters": f"{format_quantity(sum(parameters.values()))}: {towers}",
        "training": f"{total_steps:,} steps × {batch_size:,} images{epochs}",
        "compute": compute,
        "workdir": workdir,
    }
    lines = [f"  {field:<12}{text}" for field, text in rows.items() if text]
    return "\n".join([title, *lines])
