"""Confirmation with fresh seeds and galleries: TiMix without boxes, its controls, and tuned augmentation."""

from ml_collections import ConfigDict

from configs.small_scenes import galleries
from configs.studies.gap import scenes
from configs.studies.tuning import CROPPED, TIMIX

AMOUNTS = {"2k": 2000, "4k": 4000, "8k": 8000}
METHODS = {
    "plain": (),
    "augment": CROPPED,  # the best of tuning.py and forms.py without mixing
    "timix": TIMIX,
    "random_window": (*TIMIX, "mix.mixer=random_window"),
    "shuffled": (*TIMIX, "mix.score=shuffled:single_patch"),
}


def get_config() -> ConfigDict:
    """All methods on 2,000 scenes; the curve of tuned augmentation gives the data multiplier."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "common": (f"eval.sets={galleries(8)}",),
            "methods": METHODS,
            "data": {name: scenes(count) for name, count in AMOUNTS.items()},
            "only": {name: ("augment",) for name in AMOUNTS if name != "2k"},
            "seeds": tuple(range(10, 18)),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (
                ("timix", "augment"),
                ("timix", "random_window"),
                ("timix", "shuffled"),
            ),
            "amounts": AMOUNTS,
            "baseline": "augment",
        }
    )
