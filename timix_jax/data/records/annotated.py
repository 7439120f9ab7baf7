"""Choosing the annotated examples whose regions the trainer sees."""

import hashlib

import numpy as np

from timix_jax.errors import UserError


def key_hash(key: str) -> int:
    """A hash of an example's key in [0, 2**32), the same on every machine and sharding."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")


def select_annotated(annotated: np.ndarray, fraction: float) -> np.ndarray:
    """Chooses the region-bearing examples whose regions the trainer sees.

    Args:
      annotated: int64 (A, 2), index and `key_hash` of each example that has regions.
      fraction: share to keep, chosen by the hash, so that a larger share contains a smaller one.

    Returns:
      int64 (A',) indices.

    Raises:
      UserError: if the fraction is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"annotated={fraction:g}: a fraction of the examples, give 0 to 1")
    return annotated[annotated[:, 1] < fraction * 2**32, 0]
