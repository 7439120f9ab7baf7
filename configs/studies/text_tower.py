"""What a pretrained text tower is worth on few captions: MiniLM by [CLS] and by the mean, and itself from scratch."""

from ml_collections import ConfigDict

SCRATCH = ("init_from_text=", "optim.lr_scales=()")
METHODS = {
    "scratch": SCRATCH,
    "cls": ("model.text.pool=cls",),
    "mean": (),
}


def get_config() -> ConfigDict:
    """All methods for equal steps."""
    return ConfigDict(
        {
            "recipe": "configs/text_tower_minilm.py",
            "methods": METHODS,
            "seeds": (0, 1, 2),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("val/mean_recall",),
            "primary": (("mean", "scratch"), ("cls", "scratch"), ("mean", "cls")),
        }
    )
