"""What a format cannot express, named with its reason."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from timix_jax.errors import UserError
from timix_jax.export.trained import Trained


class Rule(NamedTuple):
    """A field of `config.model`, the values that a format can express, and why no others."""

    field: str
    values: Sequence[Any]
    reason: str


def check_rules(trained: Trained, title: str, rules: Sequence[Rule]) -> None:
    """Raise a UserError that names every field with a value that the format lacks."""
    broken = [rule for rule in rules if trained.field(rule.field) not in rule.values]
    if broken:
        found = "; ".join(
            f"model.{rule.field}={trained.field(rule.field)!r} ({rule.reason})" for rule in broken
        )
        raise UserError(
            f"{title} cannot express {found}: use --format=jax, which takes every model"
        )


def check_dual_encoder(trained: Trained, title: str) -> None:
    """Raise a UserError for a model that is no dual encoder."""
    name = trained.settings.get("model.name", "dual_encoder")
    if name != "dual_encoder":
        raise UserError(
            f"{title} cannot express model.name={name!r}: use --format=jax, which takes every model"
        )
