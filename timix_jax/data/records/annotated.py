"""Choosing the annotated examples whose regions the trainer sees."""

import hashlib

import numpy as np

from timix_jax.errors import UserError


def key_hash(key: str) -> int:
    """Hash an example's key to [0, 2**32), independent of machine and sharding."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def select_annotated(annotated: np.ndarray, fraction: float) -> np.ndarray:
    """Choose the annotated examples whose regions the trainer sees.

    Args:
      annotated: int64 (A, 2), index and `key_hash` of each example that has regions.
      fraction: share to keep, selected by hash, so that a larger share contains a smaller one.

    Returns:
      int64 (A',) indices.

    Raises:
      UserError: the fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"annotated={fraction:g}: must be a fraction of the examples, 0 to 1")
    return annotated[annotated[:, 1] < fraction * 2**32, 0]
