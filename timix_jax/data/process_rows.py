"""The rows of one process in the global batches, as a Grain data set."""

from typing import Any

import grain


class ProcessRows(grain.MapDataset):
    """Of every ``period`` elements the ``length`` ones from ``start`` on.

    Together the processes hold a global batch in its order: an example keeps its row, with which random draws of a
    step and the partners of mixing go, on any number of processes.
    """

    def __init__(self, parent: grain.MapDataset, period: int, start: int, length: int):
        super().__init__(parent)
        self._period, self._start, self._length = period, start, length

    def __len__(self) -> int:
        return len(self._parent) // self._period * self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        block, row = divmod(index, self._length)
        return self._parent[block * self._period + self._start + row]
