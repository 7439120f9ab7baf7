"""Views of the batch: what the towers are shown, besides the batch as it was read.

May import mixing and models' protocols.
"""

from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.views.mixed import PLACEMENTS, MixedView
from timix_jax.objectives.views.regions import REGIONS, RegionView

__all__ = ["PLACEMENTS", "REGIONS", "Inputs", "MixedView", "RegionView", "View"]
