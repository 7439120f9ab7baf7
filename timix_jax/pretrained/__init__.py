"""Start from other weights: what fits, what is adapted, what is refused.

May import checkpointing, parallel and runtime.
"""

from timix_jax.pretrained.initialise import check_init_from, load_params

__all__ = ["check_init_from", "load_params"]
