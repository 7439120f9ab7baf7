"""The summary of a run that is printed before its first step."""

from collections.abc import Mapping, Sequence

import jax

from timix_jax.inspection.tables import parameters_by_tower
from timix_jax.reporting.progress import format_quantity
from timix_jax.training.build import Experiment
from timix_jax.training.state import TrainState


def run_summary(run: Experiment, state: TrainState, workdir: str) -> str:
    """`startup_summary` of a run that begins, or goes on, at `state.step`."""
    step = int(state.step)
    return startup_summary(
        f"TiMix-JAX: {f'resuming at step {step}' if step else 'training'}",
        devices=list(run.mesh.devices.flat),
        mesh_shape=dict(run.mesh.shape),
        data={source.name: len(source) for source in run.sources},
        parameters={
            tower: size
            for tower, size in parameters_by_tower(state.params).items()
            if tower not in ("log_temperature", "logit_bias")
        },
        batch_size=run.batch_size,
        total_steps=run.total_steps,
        examples=run.examples,
        flops_per_step=run.step_flops(step),
        peak_flops=run.peak_flops,
        workdir=workdir,
    )


def startup_summary(
    name: str,
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
    """The summary printed before the first step.

    Args:
        name: of the configuration.
        data: what it is (`train`, `heldout_vendor`) → its number of examples.
        parameters: tower → number of parameters.
        examples: size of the training set.
        flops_per_step: over all devices, of the first step to be run.
        peak_flops: FLOP/s of one device, or None where it is not known.
    """
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh_shape.items() if size > 1)
    processes = len({device.process_index for device in devices})
    where = f"{len(devices)} × {devices[0].device_kind}" + (f" ({axes})" if axes else "")
    where += f" in {processes} processes" if processes > 1 else ""
    towers = ", ".join(f"{tower} {format_quantity(n)}" for tower, n in parameters.items())
    images = total_steps * batch_size
    compute = f"{format_quantity(flops_per_step, 'FLOP')} a step"
    if peak_flops:
        compute += f"; peak {format_quantity(peak_flops, 'FLOP/s')} a device"
    epochs = f" = {images / examples:.3g} epochs" if examples else ""
    rows = {
        "devices": where,
        "data": ", ".join(f"{what} {count:,}" for what, count in data.items()),
        "parameters": f"{format_quantity(sum(parameters.values()))}: {towers}",
        "training": f"{total_steps:,} steps × {batch_size:,} images{epochs}",
        "compute": compute,
        "workdir": workdir,
    }
    lines = [f"  {field:<12}{text}" for field, text in rows.items() if text]
    return "\n".join([name, *lines])
