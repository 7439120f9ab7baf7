"""What of TiMix matters on few scenes: scores, dose, image or caption, the pairing; and how it takes wrong captions."""

from ml_collections import ConfigDict

from configs.small_scenes import SCENES, galleries
from configs.studies.gap import scenes
from configs.studies.tuning import CROPPED, TIMIX


def wrong(share: float) -> tuple[str, ...]:
    """Return the change that trains on 2,000 scenes of which a share has captions of other ones."""
    source = f"emoji:train?{SCENES}&scenes=40000&annotated=0&first=2000&wrong_captions={share}"
    return (f"data.train=('{source}',)",)


# Boxes that the scores alone read.
BOXES = (f"data.train=('emoji:train?{SCENES}&scenes=40000&annotated=1&first=2000',)",)
METHODS = {
    "plain": (),
    "augment": CROPPED,
    "augment_longer": (*CROPPED, "train.duration=672 steps"),  # the FLOPs of TiMix
    "timix": TIMIX,
    # Scores: the ceiling, and what does not read the caption.
    "oracle": (*TIMIX, *BOXES, "mix.score=oracle"),
    "clutter": (*TIMIX, *BOXES, "mix.score=clutter"),
    "centre": (*TIMIX, "mix.score=centre"),
    # Dose.
    "quarter": (*TIMIX, "mix.fraction=0.25"),
    "all_rows": (*TIMIX, "mix.fraction=1.0"),
    "until_100": (*TIMIX, "mix.until=100%"),
    # Image mixed or not, captions mixed or not; "plain" and "timix" are the other two. In "image_alone" the partner's
    # caption stays a negative; joined captions leave it out.
    "image_alone": (*TIMIX, "mix.captions=own", "mix.options.timix.lambda_by=own"),
    "captions_alone": (
        *TIMIX,
        "mix.mixer=captions_alone",
        "mix.options.captions_alone.partner=derangement",
    ),
    "shares": (*TIMIX, "mix.captions=own"),  # as published: each caption by its area
    # Pairing.
    "flip": (*TIMIX, "mix.options.timix.partner=flip"),
    "dissimilar": (*TIMIX, "mix.options.timix.partner=dissimilar"),
}
_NOISY = ("augment", "timix")


def get_config() -> ConfigDict:
    """Screening on three seeds; seeds and galleries are neither those of tuning nor those of confirm.py."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "common": (f"eval.sets={galleries(16)}",),
            "methods": METHODS,
            "data": {"right": scenes(2000), "wrong20": wrong(0.2), "wrong40": wrong(0.4)},
            "only": {"wrong20": _NOISY, "wrong40": _NOISY},
            "seeds": (20, 21, 22),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (
                ("timix", "augment_longer"),
                ("oracle", "timix"),
                ("timix", "captions_alone"),
                ("timix", "image_alone"),
                ("timix", "shares"),
                ("timix", "flip"),
            ),
            "baseline": "augment",
        }
    )
