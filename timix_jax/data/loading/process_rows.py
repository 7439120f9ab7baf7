"""One process's rows of the global batches, as a Grain data set."""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np


class ProcessRows(grain.MapDataset):
    """The elements at the positions `rows` of every `period` elements.

    An example keeps its row in the global batch on any number of processes, wherever their devices
    lie in the mesh. The random draws of a step and the mixing partners depend on that row.
    """

    def __init__(self, parent: grain.MapDataset, period: int, rows: Sequence[int] | np.ndarray):
        super().__init__(parent)
        self._period, self._rows = period, [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self._parent) // self._period * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        block, row = divmod(index, len(self._rows))
        return self._parent[block * self._period + self._rows[row]]
