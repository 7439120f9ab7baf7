"""A trained model in your hands: embed, compare, classify, see what a text points to.

`timix_jax.load` is its front door. May import everything that builds, trains and evaluates a model.
"""

from timix_jax.inference.load import load_model
from timix_jax.inference.model import LoadedModel

__all__ = ["LoadedModel", "load_model"]
