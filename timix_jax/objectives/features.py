"""Names for what an objective reads of a step: a tower, a view, whose weights, and a block."""

from typing import Literal, NamedTuple

CLEAN = "clean"
"""Name of the view that shows the batch as it was read."""

Tower = Literal["image", "text"]


class Feature(NamedTuple):
    """One output of one pass through one tower.

    Passes are shared: however many objectives read a feature, its pass runs once per step, with a gradient if at
    least one of them asks for it.

    Attributes:
      tower: "image" or "text".
      view: name of a view of the batch (`views.View`).
      teacher: True for the moving average of the weights, which never gets a gradient.
      block: None for the outputs of the whole tower; otherwise every token after this block (0-based; -1: before the
        first). If a pass through the whole tower runs anyway, the block's tokens are taken from it.
      all_patches: True for a pass without patch dropout. The teacher and block features always use all patches.
      dropout: False for captions without dropout, as scores read them; the teacher never drops.
      gradient: False for a reader that treats the feature as a constant.

    **Example:** `Feature("image", teacher=True)`, `Feature("text", "mixed")`, `Feature("image", block=5)`
    """

    tower: Tower
    view: str = CLEAN
    teacher: bool = False
    block: int | None = None
    all_patches: bool = False
    dropout: bool = True
    gradient: bool = True
