"""Screening on one seed and 1,500 photographs: doses of TiMix, and the rivals that join captions."""

from ml_collections import ConfigDict

from configs.studies.photographs import AUGMENT, FORM, SMALL

JOINED = (*FORM, "mix.captions=joined")
METHODS = {
    "augment": AUGMENT,
    "timix": JOINED,
    "second_view": (*JOINED, "mix.placement=extra", "mix.fraction=1.0"),
    "all_rows": (*JOINED, "mix.fraction=1.0"),
    "quarter": (*JOINED, "mix.fraction=0.25"),
    "mixgen": (
        *AUGMENT,
        "mix.mixer=mixgen",
        "mix.captions=own",
        "mix.placement=replace",
        "mix.fraction=1.0",
    ),
    "clip_c": (*FORM, "mix.mixer=clip_c", "mix.captions=own", "mix.placement=replace"),
}
ONE_CAPTION = "data.train=('records:data/flickr8k_train?first=6000&max_captions=1',)"


def get_config() -> ConfigDict:
    """1,500 images with five captions each, and 6,000 with one, where text is what is scarce."""
    return ConfigDict(
        {
            "recipe": "configs/flickr8k.py",
            "common": SMALL,
            "methods": METHODS,
            "data": {
                "1500": ("data.train=('records:data/flickr8k_train?first=1500',)",),
                "one_caption": (ONE_CAPTION,),
            },
            "only": {"one_caption": ("augment", "timix")},
            "seeds": (0,),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("val*/mean_recall",),
            "primary": (("timix", "augment"), ("second_view", "augment")),
            "baseline": "augment",
        }
    )
