"""Forms of mixing on few photographs: the first images of Flickr8k, at 48 pixels (data as for configs/flickr8k.py)."""

from ml_collections import ConfigDict

AMOUNTS = {"750": 750, "1500": 1500, "3000": 3000, "6000": 6000}
# A quarter of the recipe's model, and no augmentation but the flip.
SMALL = (
    "data.processes=0",
    "data.threads=1",
    "augment.crop_min=1.0",
    "augment.randaugment=0",
    "model.image.size=48",
    "model.image.width=64",
    "model.image.depth=2",
    "model.image.mlp_dim=256",
    "model.text.max_tokens=48",
    "model.text.width=64",
    "model.text.mlp_dim=256",
    "model.embed_dim=64",
    "model.tpp_layer=1",
    "train.duration=600 steps",
    "eval.sets=('val0=records:data/flickr8k_val?block=0/2','val1=records:data/flickr8k_val?block=1/2')",
    "eval.every=100%",
    "checkpoint.every=100%",
    "pictures.examples=0",
    "mix.mixer=none",
)
AUGMENT = ("augment.crop_min=0.6", "augment.randaugment=1")
FORM = (
    "mix.mixer=timix",
    "mix.options.timix.partner=derangement",
    "mix.placement=among",
    "mix.ramp=10%",
    "mix.until=85%",
    *AUGMENT,
)
METHODS = {
    "plain": (),
    "augment": AUGMENT,
    "timix": (*FORM, "mix.captions=joined"),
    "phrases": (*FORM, "mix.captions=phrases"),
    "random_window": (
        *FORM,
        "mix.mixer=random_window",
        "mix.options.random_window.partner=derangement",
        "mix.captions=joined",
    ),
    "shuffled": (*FORM, "mix.captions=joined", "mix.score=shuffled:single_patch"),
}


def get_config() -> ConfigDict:
    """All methods on 1,500 photographs; the curve of augmented training gives the data multiplier."""
    return ConfigDict(
        {
            "recipe": "configs/flickr8k.py",
            "common": SMALL,
            "methods": METHODS,
            "data": {
                name: (f"data.train=('records:data/flickr8k_train?first={count}',)",)
                for name, count in AMOUNTS.items()
            },
            "only": {name: ("augment",) for name in AMOUNTS if name != "1500"},
            "seeds": (0, 1, 2),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("val*/mean_recall",),
            "primary": (("timix", "augment"), ("phrases", "timix"), ("timix", "shuffled")),
            "amounts": AMOUNTS,
            "baseline": "augment",
        }
    )
