"""What an objective reads of a step, by name: of which tower, view and weights, and after which block."""

from typing import Literal, NamedTuple

CLEAN = "clean"
"""Name of the view that is the batch as it was read."""

Tower = Literal["image", "text"]


class Feature(NamedTuple):
    """One output of one pass through one tower.

    Passes are shared: however many objectives read a feature, its pass runs once per step, and a gradient flows into
    it if one of them asks for that.

    Attributes:
      tower: "image" or "text".
      view: name of a view of the batch (`views.View`).
      teacher: True for the moving average's weights, without a gradient.
      block: None for the outputs of the whole tower; else all tokens after this block (0-based; -1: before the first)
        of all patches. Blocks that lie in a pass that runs anyway are taken from it.
      all_patches: True for a pass without patch dropout. The teacher, and blocks, always see all patches.
      gradient: False for a reader that takes the feature as a constant.
    """

    tower: Tower
    view: str = CLEAN
    teacher: bool = False
    block: int | None = None
    all_patches: bool = False
    gradient: bool = True
