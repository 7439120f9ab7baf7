"""The training step through the TPU compiler for slices of 4 to 1,024 chips, without a TPU: a table and its JSON.

    pip install libtpu                                           # Linux x86-64
    python -m benchmarks.compile_table                           # all rows, a few minutes each on two cores
    python -m benchmarks.compile_table --rows plain TiMix --slices v5e:4x4

Rows "plain", "plain, fsdp" and "TiMix" are the size of the public JAX reference that the project compares itself with:
ViT-B/16 and a text tower of size B with 64 tokens, 224 px, sigmoid loss, bfloat16 products, scan, full remat.
Row "vitb16" is configs/vitb16.py: 256 px, half of the rows mixed among themselves, scores without boxes, captions
joined. Row "vitb16_boxes" is TiMix as published: an extra view, patch-text alignment with an annotated image for every
four examples, a moving-average teacher. Rows "albef_vitb16" and "mplug_vitb16" are the fusion models.
Each row is compiled in a process of its own; one that is in the JSON file already is not compiled again.
"""

import argparse
import dataclasses
import json
import multiprocessing
import runpy
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks import program
from timix_jax.config import default_config


class Row(NamedTuple):
    """A step to compile: recipe, slice, examples per chip, and changed fields."""

    name: str
    topology: str
    chips: int
    per_chip: int
    fields: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """Return the name in the JSON file."""
        return f"{self.name} | {self.topology} | {self.per_chip * self.chips}"


TIMIX = {"mix.mixer": "timix", "mix.score": "similarity", "mix.placement": "extra"}
RING = {"contrastive.method": "ring"}

ROWS = (
    Row("plain", "v5e:2x2", 4, 128, RING),
    Row("plain", "v5e:4x4", 16, 128, RING),
    Row("plain", "v5e:16x16", 256, 128, RING),
    Row("plain", "v6e:2x2", 4, 1024, RING),
    Row("plain, fsdp", "v5e:4x4", 16, 128, RING | {"mesh.fsdp": 16}),
    Row("TiMix", "v5e:4x4", 16, 128, RING | TIMIX),
    Row("TiMix", "v5e:16x16", 256, 128, RING | TIMIX),
    Row("vitb16", "v6e:2x2", 4, 1024),
    Row("vitb16", "v5e:4x4", 16, 128),
    Row("vitb16", "v5e:16x16", 256, 128),
    Row("vitb16_boxes", "v6e:2x2", 4, 1024),
    Row("vitb16_boxes", "v5e:4x4", 16, 128),
    Row("vitb16_boxes", "v5e:16x16", 256, 128),
    Row("vitb16_boxes", "v5p:2x2x1", 4, 1024),
    Row("vitb16_boxes", "v5p:8x8x16", 1024, 128),
    Row("albef_vitb16", "v6e:2x2", 4, 256),
    Row("albef_vitb16", "v5e:4x4", 16, 64),
    Row("mplug_vitb16", "v6e:2x2", 4, 256),
    Row("mplug_vitb16", "v5e:4x4", 16, 64),
)


def reference_config() -> ConfigDict:
    """Return the plain contrastive step at the reference's size."""
    c = default_config()
    tower = {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
    c.model.image.update({"size": 224, "patch": 16, **tower})
    c.model.text.update({"max_tokens": 64, "pre_norm": True, **tower})
    c.model.embed_dim = 768
    c.model.dtype = "bfloat16"
    c.model.scan = True
    c.model.remat = "full"
    c.model.act = "gelu_tanh"
    c.data.vocab_size = 32_000
    c.contrastive.loss = "sigmoid"
    return c


def row_config(row: Row) -> ConfigDict:
    """Return the configuration of a row."""
    config = (
        runpy.run_path(f"configs/{row.name}.py")["get_config"]()
        if "vitb16" in row.name
        else reference_config()
    )
    config.train.batch_size = row.chips * row.per_chip
    config.update_from_flattened_dict(dict(row.fields or {}))
    return config


def measure(row: Row) -> dict[str, Any]:
    """Return the compiler's figures for a row; call from a fresh process."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from timix_jax.inspection import compile as compiling
    from timix_jax.training.build import read_settings

    compiled = compiling.compile_step(read_settings(row_config(row)), row.topology)
    collectives: dict[str, list[int]] = {}
    for one in compiled.collectives:
        sums = collectives.setdefault(f"{one.kind}, {compiling.purpose(one)}", [0, 0])
        sums[0] += 1
        sums[1] += one.runs * one.bytes
    return dataclasses.asdict(compiled) | {"collectives": collectives}


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| step | slice | batch | arguments, GB | temporaries, GB | peak / HBM | TFLOP a chip | collectives "
        "(permutes that reshard) | compile, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, m in measured.items():
        counts = {name: count for name, (count, _) in m["collectives"].items()}
        resharding = counts.get("collective-permute, resharding", 0)
        lines.append(
            f"| {key.split(' | ')[0]} | {m['topology']} | {m['batch_size']:,} | {m['arguments'] / 1e9:.2f} "
            f"| {m['temporaries'] / 1e9:.2f} | {m['peak'] / m['hbm']:.0%} | {m['flops'] / 1e12:.2f} "
            f"| {sum(counts.values())} ({resharding}) | {m['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Compile what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", choices=sorted({row.name for row in ROWS}))
    parser.add_argument("--slices", nargs="+", choices=sorted({row.topology for row in ROWS}))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/compile_table.json"))
    args = parser.parse_args(argv)
    measured = json.loads(args.json.read_text()) if args.json.exists() else {}
    for row in ROWS:
        wanted = (not args.rows or row.name in args.rows) and (
            not args.slices or row.topology in args.slices
        )
        if not wanted or row.key in measured:
            continue
        # One process per row: the compiler's memory is freed, and times are independent.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            measured[row.key] = pool.submit(measure, row).result()
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(measured, indent=1) + "\n")
        print(f"{row.key}: compiled in {measured[row.key]['seconds']:.0f} s", flush=True)
    order = [row.key for row in ROWS]
    print(table({key: measured[key] for key in order if key in measured}))


if __name__ == "__main__":
    program.run(main)
