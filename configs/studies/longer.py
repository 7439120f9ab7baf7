"""How many scenes TiMix is worth when few are seen very often: 1,600 steps, so 102 epochs of 2,000 scenes."""

from ml_collections import ConfigDict

from configs.small_scenes import galleries
from configs.studies.gap import scenes
from configs.studies.tuning import CROPPED, TIMIX

AMOUNTS = {"2k": 2000, "4k": 4000, "8k": 8000}
STRONG = ("augment.randaugment=2", "augment.crop_min=0.8")


def get_config() -> ConfigDict:
    """TiMix alone and with the augmentation, against augmentation on more scenes; other scenes than in confirm.py."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "common": ("train.duration=1600 steps", f"eval.sets={galleries(24)}"),
            "methods": {
                "augment": CROPPED,
                "augment_strong": STRONG,
                "timix": TIMIX,
                "timix_augment": (*TIMIX, *CROPPED),
            },
            "data": {name: scenes(count) for name, count in AMOUNTS.items()},
            "only": {"4k": ("augment", "augment_strong"), "8k": ("augment",)},
            "seeds": (30, 31, 32),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (("timix", "augment"), ("timix_augment", "augment")),
            "amounts": AMOUNTS,
            "baseline": "augment",
        }
    )
