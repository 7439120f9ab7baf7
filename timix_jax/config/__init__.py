"""The configuration: its schema and defaults, the values of its fields, and the errors of the command line.

May import the packages whose registries and defaults it lists: checkpointing, data, evaluators, mixing, models,
objectives, parallel, reporting; not training.
"""

from timix_jax.config.checks import complete, default_of, flatten
from timix_jax.config.field_values import canonical
from timix_jax.config.schema import MUTABLE_FIELDS, default_config

__all__ = ["MUTABLE_FIELDS", "canonical", "complete", "default_config", "default_of", "flatten"]
