"""Emoji scenes seen many times, small enough that a run takes about two minutes on one core: the base of studies."""

from ml_collections import ConfigDict

from configs.demo import get_config as base

# More concepts than in the demo.
SCENES = (
    "concepts=120&heldout=20&canvas=64&min_size=0.38&max_size=0.54&rotation=20&on_canvas=0.5&seed=0"
)
# Sets of 500 test scenes.
GALLERIES = 8


def galleries(first: int) -> tuple[str, ...]:
    """Return the evaluation sets of `GALLERIES` galleries, by the unseen vendor and by those of training."""
    return tuple(
        f"{split}{gallery}=emoji:{split}?{SCENES}&gallery={gallery}"
        for split in ("heldout_vendor", "trained_vendor")
        for gallery in range(first, first + GALLERIES)
    )


def get_config() -> ConfigDict:
    """The demo on 2,000 fixed scenes, smaller and without mixing."""
    c = base()
    # Data: the first of so many scenes that studies may draw on; one run per core, so threads instead of processes.
    c.data.train = (f"emoji:train?{SCENES}&scenes=40000&annotated=0&first=2000",)
    c.data.processes = 0
    c.data.threads = 1
    # So short a run learns faster without; studies compare with augmentation.
    c.augment.randaugment = 0
    c.augment.crop_min = 1.0

    # Model: half the demo's width and depth.
    c.model.image.width = 64
    c.model.image.depth = 2
    c.model.image.heads = 4
    c.model.image.mlp_dim = 128
    c.model.text.width = 64
    c.model.text.heads = 4
    c.model.text.mlp_dim = 128
    c.model.embed_dim = 64
    c.model.tpp_layer = 1

    # Mixing is off; switched on by `mix.mixer=timix`, it is that of the demo.
    c.mix.mixer = "none"
    c.mix.options.random_window.partner = "derangement"

    # Duration, evaluation at the end, log.
    c.train.duration = "600 steps"
    c.eval.sets = galleries(0)
    c.eval.evaluators = ("retrieval",)
    c.eval.options.patch_scores.sources = ()  # all, if this evaluator is asked for
    c.eval.every = "100%"
    c.checkpoint.every = "100%"
    c.log.every = "50 steps"
    c.pictures.examples = 0  # none
    return c
