"""Start from other weights: what fits, what is adapted, what is refused.

Another run of this project, or published weights: `layouts/` has one reader per layout, `public_weights.py` checks and
loads what a reader describes. May import checkpointing, parallel and runtime.
"""

from timix_jax.pretrained.initialise import INIT_FIELDS, check_init_from, load_params
from timix_jax.pretrained.public_weights import PublicWeights, read_public
from timix_jax.pretrained.report import Report
from timix_jax.pretrained.weight_files import is_weights

__all__ = [
    "INIT_FIELDS",
    "PublicWeights",
    "Report",
    "check_init_from",
    "is_weights",
    "load_params",
    "read_public",
]
