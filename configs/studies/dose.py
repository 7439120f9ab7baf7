"""How much to mix on few scenes: half of the rows, all, to the end, or a second view; and the ceiling by boxes."""

from ml_collections import ConfigDict

from configs.small_scenes import galleries
from configs.studies.gap import scenes
from configs.studies.questions import BOXES
from configs.studies.tuning import CROPPED, TIMIX

AMOUNTS = {"2k": 2000, "4k": 4000}
ALL = (*TIMIX, "mix.fraction=1.0")


def get_config() -> ConfigDict:
    """Screening on fresh seeds and galleries; the curve of tuned augmentation gives the data multiplier."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "common": (f"eval.sets={galleries(32)}",),
            "methods": {
                "augment": CROPPED,
                "timix": TIMIX,
                "all_rows": ALL,
                "all_rows_to_the_end": (*ALL, "mix.until=100%"),
                "second_view": (*ALL, "mix.placement=extra"),
                "all_rows_oracle": (*ALL, *BOXES, "mix.score=oracle"),
            },
            "data": {name: scenes(count) for name, count in AMOUNTS.items()},
            "only": {"4k": ("augment",)},
            "seeds": (40, 41, 42),
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (
                ("all_rows", "timix"),
                ("timix", "augment"),
                ("all_rows", "augment"),
                ("all_rows_oracle", "all_rows"),
            ),
            "amounts": AMOUNTS,
            "baseline": "augment",
        }
    )
