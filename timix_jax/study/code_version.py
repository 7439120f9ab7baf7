"""What code a run was made by, so that runs of different code are never mixed in one table."""

import hashlib
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import timix_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def code_version() -> dict[str, Any]:
    """Return the digest of all sources that a run reads, the commit where git knows it, and the packages' versions.

    The digest decides whether two runs were made by the same code; a commit does not say what was changed since.
    """
    package = Path(timix_jax.__file__).parent
    return {
        "digest": source_digest(package),
        "commit": _commit(package),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def source_digest(package: Path) -> str:
    """Return a digest of the Python files of a package, apart from those of studies, which change no run."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] != "study":
            digest.update(f"{relative}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _commit(folder: Path) -> str:
    """Return the commit of a checkout, with "+" if files differ from it; empty for an installed package."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--", str(folder)).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout
