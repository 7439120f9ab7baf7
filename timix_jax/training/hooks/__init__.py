"""Work of a training run between two steps: one hook per file, each a function of a `Moment`.

The order in which hooks run is decided in `training.train.make_hooks`. May import everything that training may.
"""

from timix_jax.training.hooks.moment import Hook, Moment

__all__ = ["Hook", "Moment"]
