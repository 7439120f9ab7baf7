"""Files of published weights: safetensors and NumPy archives, read array by array; nothing is ever unpickled."""

import contextlib
import dataclasses
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from etils import epath

from timix_jax.errors import UserError
from timix_jax.pretrained.mapped_file import map_arrays
from timix_jax.runtime.remote import as_path, local_only

Shape = tuple[int, ...]
Read = Callable[[str], np.ndarray]

_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
OWN = "timix_jax"
"""Beginning of the names of arrays that `timix_jax.export` adds, in a file of its own next to the weights."""

OWN_FILE = f"{OWN}.safetensors"
_PREFERRED = ("open_clip_model.safetensors", "model.safetensors")
_INDEX = ".safetensors.index.json"
_IMPLAUSIBLE = 1e6  # a flipped bit of an exponent gives far larger numbers


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The arrays of one model, in one or several files of a folder.

    Attributes:
      path: the file or folder that the user gave.
      folder: where its configuration lies.
      shapes: name → shape of each array.
      files: name → the file that holds it.
    """

    path: Path
    folder: Path
    shapes: Mapping[str, Shape]
    files: Mapping[str, Path]

    @contextlib.contextmanager
    def reading(self, names: Sequence[str]) -> Iterator[Read]:
        """Open the files of `names`; the function read(name) returns an array in float32, checked for damage.

        Arrays of safetensors files are views of the file: copy what is to outlive the context.
        """
        with contextlib.ExitStack() as stack:
            opened = {
                file: stack.enter_context(_open(file, names))
                for file in sorted({self.files[name] for name in names})
            }

            def read(name: str) -> np.ndarray:
                file = self.files[name]
                with _damage(file, name):
                    array = np.asarray(opened[file](name), np.float32)
                _check_values(array, name, file)
                return array

            yield read

    def own(self) -> dict[str, Any]:
        """Return what `timix_jax.export` noted about the model; empty for weights from elsewhere."""
        file = self.folder / OWN_FILE
        if not file.is_file():
            return {}
        with _damage(file), safetensors.safe_open(file, "np") as opened:
            return dict(json.loads((opened.metadata() or {}).get(OWN, "{}")))

    def json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file of the folder; None if there is none.

        Raises:
          UserError: it is not a JSON object.
        """
        file = self.folder / name
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is not JSON ({error}): fetch it again") from error
        if not isinstance(content, dict):
            raise UserError(f"{file} is not a JSON object: fetch it again")
        return content


def is_weights(path: epath.PathLike) -> bool:
    """Return True for a file, or a folder with files, of published weights, even in a format that is refused."""
    path = as_path(path)
    suffixes = (".safetensors", ".npz", *_PICKLES)
    if path.is_dir():
        return any(file.suffix in suffixes for file in path.iterdir())
    return path.suffix in suffixes


def open_weights(path: epath.PathLike) -> WeightFiles:
    """Read names and shapes of published weights.

    Args:
      path: a .safetensors or .npz file, or a folder with one; in a folder the names that open_clip and Hugging Face
        use come first.

    Raises:
      UserError: the file is missing, damaged or of a format that is not read, such as a pickle.

    **Example:** `open_weights("clip-vit-base-patch32").shapes["visual_projection.weight"]`  # (512, 768)
    """
    local_only(path, "", "copy the weights to a disk")
    given = Path(as_path(path))
    if not given.exists():
        raise UserError(f"{given} does not exist")
    file = _chosen(given) if given.is_dir() else given
    if file.suffix in _PICKLES:
        raise UserError(_conversion(file))
    shapes: dict[str, Shape] = {}
    files: dict[str, Path] = {}
    own = file.with_name(OWN_FILE)
    for part in [*_parts(file), *([own] if own.is_file() and own != file else [])]:
        found = _shapes(part)
        shapes |= found
        files |= dict.fromkeys(found, part)
    return WeightFiles(given, file.parent, shapes, files)


def _chosen(folder: Path) -> Path:
    for name in _PREFERRED:
        for candidate in (folder / name, folder / name.replace(".safetensors", _INDEX)):
            if candidate.is_file():
                return candidate
    formats = (".safetensors", ".npz")
    found = sorted(f for f in folder.iterdir() if f.suffix in formats and f.name != OWN_FILE)
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise UserError(f"{folder} holds several files of weights ({names}): give one of them")
    if found:
        return found[0]
    pickles = sorted(f for f in folder.iterdir() if f.suffix in _PICKLES)
    if pickles:
        return pickles[0]
    raise UserError(f"{folder} holds no .safetensors and no .npz file")


def _parts(file: Path) -> list[Path]:
    """Return the files that an index lists; otherwise the file itself."""
    if not file.name.endswith(_INDEX):
        return [file]
    try:
        names = json.loads(file.read_text())["weight_map"].values()
        parts = sorted({file.parent / Path(name).name for name in names})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is not an index of safetensors files: fetch it again") from error
    for part in parts:
        if not part.is_file():
            raise UserError(f"{part}, which {file.name} lists, is missing: fetch it again")
    return parts


def _shapes(file: Path) -> dict[str, Shape]:
    if file.suffix == ".npz":
        with _open_npz(file) as archive:
            return {name: _npy_shape(archive, name, file) for name in archive.files}
    if file.suffix != ".safetensors":
        raise UserError(f"{file}: weights are read from .safetensors and .npz files")
    with _damage(file), safetensors.safe_open(file, "np") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _npy_shape(archive: Any, name: str, file: Path) -> Shape:
    """Read the header of one array of an archive."""
    with _damage(file, name), archive.zip.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise UserError(
            f"{file}: {name} is a pickle, which could run any code, and is not read; on a machine where you trust it,"
            " save its arrays by numpy.savez(PATH, **{name: array})"
        )
    return tuple(shape)


@contextlib.contextmanager
def _open(file: Path, names: Sequence[str]) -> Iterator[Callable[[str], Any]]:
    if file.suffix == ".npz":
        with _open_npz(file) as archive:
            yield archive.__getitem__
        return
    with _damage(file):
        mapped = map_arrays(file, frozenset(names))
    yield mapped.__getitem__


@contextlib.contextmanager
def _open_npz(file: Path) -> Iterator[Any]:
    with _damage(file):
        archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{file} is a single array, not an archive of named arrays")
    with archive:
        yield archive


@contextlib.contextmanager
def _damage(file: Path, name: str = "") -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into one line."""
    try:
        yield
    except UserError:
        raise
    except (
        safetensors.SafetensorError,
        zipfile.BadZipFile,
        ValueError,
        OSError,
        EOFError,
    ) as error:
        if file.suffix == ".npz" and "pickle" in str(error).lower():
            raise UserError(_conversion(file)) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        place = f"{file}: {name}" if name else str(file)
        raise UserError(f"{place} is damaged or cut short ({reason}): fetch it again") from error
    except Exception as error:  # zlib's and struct's errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file} is damaged ({reason}): fetch it again") from error


def _check_values(array: np.ndarray, name: str, file: Path) -> None:
    flat = array.ravel()
    with np.errstate(all="ignore"):
        if flat @ flat < _IMPLAUSIBLE**2:  # one fast pass, and false for NaN
            return
    low, high = float(flat.min()), float(flat.max())
    if np.isnan(low) or np.isnan(high):
        raise UserError(f"{file}: {name} holds NaN; the file is damaged, or its training diverged")
    if max(-low, high) > _IMPLAUSIBLE:
        raise UserError(
            f"{file}: {name} holds {max(-low, high):.3g}, no weight; the file is damaged"
        )


def _conversion(file: Path) -> str:
    return (
        f"{file} is a pickle, which could run any code, and is not read. Where you have PyTorch and trust the file,"
        " convert it:\n"
        "    import torch, safetensors.torch\n"
        f"    state = torch.load({file.name!r}, map_location='cpu', weights_only=True)\n"
        "    safetensors.torch.save_file({k: v.clone() for k, v in state.get('state_dict', state).items()},"
        f" {file.with_suffix('.safetensors').name!r})"
    )
