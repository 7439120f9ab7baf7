"""Write an export: the folder appears whole or not at all, and is read again before it does."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from timix_jax.errors import RunError, UserError, reraise_write_errors
from timix_jax.export.trained import Array, Trained
from timix_jax.pretrained import read_public
from timix_jax.pretrained.own_arrays import own_name
from timix_jax.pretrained.settings import effective
from timix_jax.pretrained.weight_files import OWN, OWN_FILE


class Exported(NamedTuple):
    """What a format makes of a model.

    Attributes:
      weights_file: name of the file of arrays, .safetensors or .npz.
      arrays: its arrays, by the names of the format.
      files: name → text, or content of a JSON file.
      kept: parameters that the format has no place for, kept next to it.
    """

    weights_file: str
    arrays: Mapping[str, Array]
    files: Mapping[str, Any]
    kept: Mapping[str, Array]


def check_free(target: Path) -> None:
    """Raise a UserError if there is something of that name, other than an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--out {target} exists: choose another folder, or remove it")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the name `target`, which is free, when the context ends without an error.

    Raises:
      UserError: nothing can be written there.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with reraise_write_errors(UserError, f"--out {target}", "choose another folder"):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if target.exists():
                target.rmdir()  # it is empty
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write(exported: Exported, trained: Trained, folder: Path) -> None:
    """Write all files.

    Raises:
      RunError: what was written does not give the same model back.
    """
    arrays = {n: np.asarray(a, np.float32, order="C") for n, a in exported.arrays.items()}
    file = folder / exported.weights_file
    if file.suffix == ".npz":
        np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        save_file(arrays, file, {"format": "pt"})
    del arrays
    for name, content in exported.files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    predictor = {n: a for n, a in trained.params.items() if n.startswith("patch_predictor/")}
    kept = {**exported.kept, **predictor}
    note = {
        "tpp_layer": trained.field("tpp_layer"),
        "predictor_trained": trained.predictor_trained,
    }
    save_file(
        {own_name(n): np.asarray(a, order="C") for n, a in kept.items()},
        folder / OWN_FILE,
        {OWN: json.dumps(note)},
    )
    check_same(folder, trained)


def check_same(folder: Path, trained: Trained) -> None:
    """Read an export as `init_from` does and compare it with the model, bit by bit.

    Raises:
      RunError: a setting or a parameter differs.
    """
    weights = read_public(folder)
    for name, value in weights.settings.items():
        ours = effective(trained.settings, name)
        same = abs(value - ours) <= 1e-12 if isinstance(value, float) else value == ours
        if not same:
            raise RunError(f"the export states {name}={value!r}, and the model has {ours!r}")
    for name, array in trained.params.items():
        if name not in weights.leaves:
            raise RunError(f"the export lacks {name}")
        leaf = weights.leaves[name]
        with weights.files.reading(leaf.sources) as read:
            back = leaf.build(read, leaf.shape(weights.files.shapes))
        if not np.array_equal(back, array):
            raise RunError(f"the export gives {name} back with other values")
