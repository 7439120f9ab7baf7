"""Views of the batch: other inputs for the towers, such as mixed images or annotated regions.

A new view is a class that inherits from `View`; an objective lists it in `Objective.views`. May import mixing and the
protocols of models.
"""

from timix_jax.objectives.views.base import Inputs, View
from timix_jax.objectives.views.mixed import PLACEMENTS, MixedView
from timix_jax.objectives.views.regions import REGIONS, RegionView

__all__ = ["PLACEMENTS", "REGIONS", "Inputs", "MixedView", "RegionView", "View"]
