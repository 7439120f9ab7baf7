"""The files of a working folder, which belongs to one run.

WORKDIR/config.json       the configuration that the run was started with, written once
WORKDIR/tokenizer.json    the tokenizer, trained once
WORKDIR/metrics.jsonl     one object per logged step
WORKDIR/wandb_id.txt      the run on Weights & Biases that a resumed training continues, if config.log.wandb
WORKDIR/checkpoints/      see `timix_jax.checkpointing`
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from absl import logging
from etils import epath

from timix_jax.errors import UserError, reraise_write_errors
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.remote import as_path, is_remote

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"

Canonical = Callable[[str, Any], Any]

_ABSENT = object()
_SHOWN_FIELDS = 5


def absolute(path: epath.PathLike) -> epath.Path:
    """Return the absolute path, which Orbax requires, with `~` expanded; remote paths stay as they are."""
    path = as_path(path)
    return path if is_remote(path) else epath.Path(os.path.abspath(path))


def free_bytes(path: epath.PathLike) -> int | None:
    """Return the free bytes on the disk of a path, which need not exist yet; None if it is remote."""
    path = epath.Path(path)
    if is_remote(path):
        return None
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def config_differences(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    ignore: tuple[str, ...] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    canonical: Canonical = lambda field, value: value,
) -> list[str]:
    """List the differences of two flat configurations, such as `["lr: 0.1 there, 0.2 now"]`.

    Args:
      stored: Dotted field name → value, as read from `config.json`.
      config: The same for the new run; both are compared as JSON (a tuple equals a list).
      ignore: Fields that may differ; `"log"` stands for `log` itself and for every `log.…`.
      defaults: Values of fields that the stored configuration lacks because they are newer.
      canonical: Maps a field and its value to what is compared.
    """

    def ignored(field: str) -> bool:
        return any(field == prefix or field.startswith(f"{prefix}.") for prefix in ignore)

    def shown(value: Any) -> str:
        return "absent" if value is _ABSENT else json.dumps(value)

    stored, config, defaults = json.loads(json.dumps([dict(stored), dict(config), dict(defaults)]))
    fields = [*config, *(field for field in stored if field not in config)]
    differences = []
    for field in fields:
        old, new = stored.get(field, defaults.get(field, _ABSENT)), config.get(field, _ABSENT)
        if not ignored(field) and not _same(canonical(field, old), canonical(field, new)):
            differences.append(f"{field}: {shown(old)} there, {shown(new)} now")
    return differences


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new  # True is not 1
    return old == new or (old != old and new != new)  # NaN equals NaN here


def check_folder(workdir: epath.Path) -> None:
    """Raise a UserError if the working folder is a file."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: choose a folder")


def reraise_workdir_write_errors(workdir: epath.Path) -> AbstractContextManager[None]:
    """Turn an OSError within the context into a UserError that names the folder."""
    return reraise_write_errors(UserError, f"--workdir={workdir}", "choose another --workdir")


def open_workdir(
    workdir: epath.PathLike,
    config: Mapping[str, Any],
    *,
    ignore: tuple[str, ...] = (),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    canonical: Canonical = lambda field, value: value,
) -> bool:
    """Prepare the working folder for a run with this configuration.

    With several processes, call it on the first one only. Existing files are not changed: `config.json` remains that
    of the first start.

    Args:
      workdir: The folder, created if it is missing.
      config: Dotted field name → JSON value.
      ignore: Fields that may differ from the stored configuration, see `config_differences`.
      defaults: Values of fields that the stored configuration lacks, see `config_differences`.
      canonical: Maps a field and its value to what is compared, see `config_differences`.

    Returns:
      True if a run was already started in the folder.

    Raises:
      UserError: The folder belongs to a run with another configuration, is a file, or holds a broken config.json.
    """
    workdir = epath.Path(workdir)
    check_folder(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        with reraise_workdir_write_errors(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, json.dumps(dict(config), indent=2, ensure_ascii=False) + "\n")
        return False
    differences = config_differences(read_config(workdir), config, ignore, defaults, canonical)
    if differences:
        more = len(differences) - _SHOWN_FIELDS
        listed = "; ".join(differences[:_SHOWN_FIELDS]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"--workdir={workdir} belongs to a run with another configuration ({listed}): choose"
            " another --workdir, set the fields back, or delete the folder to start again"
            + _how_to_train_longer(workdir, differences)
        )
    return True


def _how_to_train_longer(workdir: epath.Path, differences: list[str]) -> str:
    """Return what to do instead of changing the length of a run, from which its learning rates follow."""
    if not any(text.startswith("train.duration:") for text in differences):
        return ""
    return (
        f"; to train its weights further, give another --workdir and --config.init_from={workdir}, with the duration"
        " and learning rate of the further training"
    )


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
    """Return the stored configuration as dotted field name → JSON value.

    Raises:
      UserError: config.json is missing or broken.
    """
    path = epath.Path(workdir) / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: --workdir={workdir} holds no run") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): choose another --workdir") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} does not hold a JSON object: fix it or choose another --workdir")
    return config


def truncate_jsonl(path: epath.PathLike, step: int) -> int:
    """Drop what a resumed run will write again: lines with `"step"` > `step`, and incomplete lines.

    Lines without a step stay. The file is replaced atomically, and only if there is something to drop.

    Returns:
      The number of dropped lines; 0 if the file does not exist.
    """
    path = epath.Path(path)
    if not path.exists():
        return 0
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")  # not splitlines(): a JSON string may contain U+2028 and similar
    tail = lines.pop()
    kept, dropped = [], 0
    for number, line in enumerate(lines, 1):
        entry = _parsed(line)
        if entry is None:
            logging.warning(
                "%s: line %d is not a JSON object with a step and is dropped", path, number
            )
        if entry is None or entry.get("step", step) > step:
            dropped += 1
        else:
            kept.append(line + "\n")
    if tail:  # no newline: the writer was interrupted in the middle of the line
        dropped += 1
    if dropped:
        atomic_write_text(path, "".join(kept))
    return dropped


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step", 0), int) else None
