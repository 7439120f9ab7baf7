"""Screening on one seed and 2,000 scenes: the plain baseline's augmentation, and the form and dose of mixing on top."""

from ml_collections import ConfigDict

from configs.studies.gap import scenes

WEAK = ("augment.randaugment=1",)
CROPPED = ("augment.randaugment=1", "augment.crop_min=0.8")
STRONG = ("augment.randaugment=2", "augment.crop_min=0.8")
TIMIX = ("mix.mixer=timix",)
PHRASES = (*TIMIX, "mix.captions=phrases")
PACKING = (
    "mix.mixer=packing",
    "mix.options.packing.partner=derangement",
    "mix.placement=replace",
)
METHODS = {
    "augment": CROPPED,
    "augment_weak": WEAK,
    "augment_strong": STRONG,
    "timix": TIMIX,
    "phrases": PHRASES,
    "posterior": (*TIMIX, "mix.score=posterior"),
    "timix_augment": (*TIMIX, *CROPPED),
    "timix_augment_all": (*TIMIX, *CROPPED, "mix.fraction=1.0"),
    "timix_augment_long": (*TIMIX, *CROPPED, "mix.until=100%"),
    "timix_augment_large": (*TIMIX, *CROPPED, "mix.options.timix.low=0.6"),
    "phrases_augment": (*PHRASES, *CROPPED),
    "phrases_augment_all": (*PHRASES, *CROPPED, "mix.fraction=1.0"),
    "packing_augment": (*PACKING, *CROPPED),
}


def get_config() -> ConfigDict:
    """Equal numbers of trials for the baseline and for mixing; confirmation needs other seeds (confirm.py)."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "methods": METHODS,
            "data": {"2k": scenes(2000)},
            "seeds": (0,),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (("timix_augment", "augment"),),
            "baseline": "augment",
        }
    )
