"""`--mode=info`: describe a configuration in seconds, without its data and without writing anything."""

from typing import Any

import jax
from ml_collections import ConfigDict

from timix_jax.config import default_config, flatten
from timix_jax.data.tokenizers import TRAINED, Tokenizer, load_tokenizer
from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.inspection import tables
from timix_jax.parallel.mesh import batch_sharding, batch_shards
from timix_jax.parallel.paths import path_names
from timix_jax.reporting.progress import format_quantity
from timix_jax.runtime.log import print_text
from timix_jax.training import build as experiment
from timix_jax.training.build import Plan, Settings, read_settings

BERT_VOCABULARY = 30522  # assumed where the vocabulary file is missing


def print_info(config: ConfigDict, workdir: str) -> None:
    """Print configuration, devices, parameters, sharding, memory, FLOPs and versions.

    Args:
      config: a recipe; neither its data nor its vocabulary need be present.
      workdir: printed only.

    Raises:
      UserError: as in training, except for missing data.
    """
    text = describe(read_settings(config), workdir)
    if processes.is_first():
        print_text(text)


def describe(settings: Settings, workdir: str) -> str:
    """Return the text that `print_info` prints."""
    vocab_size, origin = vocabulary(settings)
    layout = experiment.check_shapes(settings)
    plan = experiment.nominal_plan(settings, layout, vocab_size=vocab_size)
    mesh, state = plan.mesh, plan.abstract_state
    shardings = layout.shardings(state)
    batch = experiment.abstract_batch(settings)
    estimate = tables.memory_estimate(
        params=state.params,
        opt_state=state.opt_state,
        ema_params=state.ema_params,
        batch=batch,
        shardings={
            "params": shardings.params,
            "opt_state": shardings.opt_state,
            "ema_params": shardings.ema_params,
            "batch": jax.tree.map(lambda _: batch_sharding(mesh), batch),
        },
    )
    sections = {
        "configuration (* differs from the default)": configuration_lines(settings),
        "run": f"workdir     {workdir}\nvocabulary  {vocab_size:,} ({origin})",
        "devices": _devices(plan),
        "parameters": tables.parameter_table(state.params),
        "sharding of parameters, moments and averages": sharding_table(state, shardings),
        "memory": tables.memory_table(estimate),
        "compute": _compute(plan),
        "versions": tables.versions_table(tables.package_versions()),
    }
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections.items())


def vocabulary(settings: Settings) -> tuple[int, str]:
    """Return the number of token ids, as far as known without the data, and where the number comes from."""
    kind = settings.data.tokenizer
    if kind in TRAINED:
        return (
            settings.data.vocab_size,
            "config.data.vocab_size; fewer where the captions have fewer",
        )
    try:
        tokenizer: Tokenizer = load_tokenizer(kind)
    except UserError as error:
        return BERT_VOCABULARY, f"assumed, as BERT's: {error}"
    return tokenizer.vocab_size, kind


def configuration_lines(settings: Settings) -> str:
    """Return one line per field; fields that differ from the schema's default are marked and show it."""
    default = flatten(default_config())
    lines = []
    for field, value in settings.flat.items():
        differs = value != default[field]
        note = f"   (default {default[field]!r})" if differs else ""
        lines.append(f"{'*' if differs else ' '} {field} = {value!r}{note}")
    return "\n".join(lines)


def sharding_table(state: Any, shardings: Any) -> str:
    """Return arrays and bytes by their layout on the mesh, and the part that one device holds."""
    rows: dict[str, list[Any]] = {}
    leaves = zip(path_names(state), jax.tree.leaves(shardings), strict=True)
    for (name, leaf), sharding in leaves:
        axes = {axis for axis in jax.tree.leaves(tuple(sharding.spec)) if axis is not None}
        layout = f"cut over {', '.join(sorted(axes))}" if axes else "whole on every device"
        row = rows.setdefault(layout, [0, 0, 0, name])
        row[0] += 1
        row[1] += tables.tree_bytes(leaf)
        row[2] += tables.tree_bytes(leaf, sharding)
    header = ("layout", "arrays", "size", "on each device", "such as")
    return tables.format_table(
        header,
        [
            (layout, f"{count:,}", tables.format_bytes(size), tables.format_bytes(part), name)
            for layout, (count, size, part, name) in rows.items()
        ],
    )


def _devices(plan: Plan) -> str:
    mesh, batch_size = plan.mesh, plan.batch_size
    devices = list(mesh.devices.flat)
    processes = len({device.process_index for device in devices})
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    each = batch_size // batch_shards(mesh)
    return (
        f"{len(devices)} × {devices[0].device_kind} in {processes} process(es)\n"
        f"mesh: {axes}\n"
        f"global batch {batch_size:,}, {each:,} on each device"
    )


def _compute(plan: Plan) -> str:
    total = plan.step_flops()
    each, peak = total / plan.mesh.size, plan.peak_flops
    text = f"{format_quantity(total, 'FLOP')} per step, "
    text += f"{format_quantity(each, 'FLOP')} per step and device"
    if peak:
        text += f"; at best {each / peak:.3g} s per step at its peak of {format_quantity(peak, 'FLOP/s')}"
    return text + "\n(matrix products of the model's own work; without rematerialised passes)"
