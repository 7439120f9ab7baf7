"""What mixing gains on few scenes, and what of it comes from the text: forms of mixing and their controls."""

from ml_collections import ConfigDict

from configs.studies.gap import scenes

AMOUNTS = {"2k": 2000, "4k": 4000, "8k": 8000, "40k": 40000}
TIMIX = ("mix.mixer=timix",)
LARGE = ("mix.options.timix.low=0.4", "mix.options.random_window.low=0.4")
METHODS = {
    "plain": (),
    "crop": ("augment.crop_min=0.6",),
    "randaugment": ("augment.randaugment=1", "augment.crop_min=0.8"),
    "timix": TIMIX,
    "timix_large": (*TIMIX, *LARGE),
    "random_window": ("mix.mixer=random_window", *LARGE),
    "shuffled": (*TIMIX, *LARGE, "mix.score=shuffled:single_patch"),
}


def get_config() -> ConfigDict:
    """All methods on 2,000 scenes; the curve of plain training gives the data multiplier."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "methods": METHODS,
            "data": {name: scenes(count) for name, count in AMOUNTS.items()},
            "only": {name: ("plain",) for name in AMOUNTS if name != "2k"},
            "seeds": (0, 1, 2),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (
                ("timix_large", "plain"),
                ("timix_large", "random_window"),
                ("timix_large", "shuffled"),
            ),
            "amounts": AMOUNTS,
            "baseline": "plain",
            "fresh": "40k",
        }
    )
