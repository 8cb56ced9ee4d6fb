"""From heatmaps and boxes to numbers: one definition of each metric of this field, with its source."""
from .localization import *  # noqa: F403
