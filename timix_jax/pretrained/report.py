"""What became of each parameter when weights were loaded."""

import dataclasses
from collections.abc import Sequence

_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Report:
    """Names by what became of them.

    Attributes:
      source: the weights, and their layout.
      loaded: parameters taken from the file.
      interpolated: position embeddings fitted to another grid, "name: 7·7 → 14·14".
      fresh: parameters that keep their random start.
      unused: names in the file that nothing needs.
      notes: what else the user should know.
    """

    source: str
    loaded: Sequence[str] = ()
    interpolated: Sequence[str] = ()
    fresh: Sequence[str] = ()
    unused: Sequence[str] = ()
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """Return one line per kind; kinds without names are left out, except `loaded`."""
        lines = [f"weights from {self.source}: {len(self.loaded)} parameters loaded"]
        for kind in ("interpolated", "fresh", "unused"):
            names = getattr(self, kind)
            if names:
                more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"{kind} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
        return [*lines, *(f"note: {note}" for note in self.notes)]
