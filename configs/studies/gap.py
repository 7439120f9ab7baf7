"""The gap that mixing could close: plain training on N fixed scenes against fresh scenes, at equal steps."""

from ml_collections import ConfigDict

from configs.small_scenes import SCENES

AMOUNTS = {"1k": 1000, "2k": 2000, "4k": 4000, "8k": 8000, "16k": 16000, "40k": 40000}


def scenes(count: int) -> tuple[str, ...]:
    """Return the change that trains on the first `count` scenes, which are part of every larger set."""
    source = f"emoji:train?{SCENES}&scenes=40000&annotated=0&first={count}"
    return (f"data.train=('{source}',)",)


def get_config() -> ConfigDict:
    """Plain training, and the box-free form of mixing beside it."""
    return ConfigDict(
        {
            "recipe": "configs/small_scenes.py",
            "methods": {"plain": (), "timix": ("mix.mixer=timix",)},
            "data": {name: scenes(count) for name, count in AMOUNTS.items()},
            "seeds": (0, 1, 2),
            # The mean of R@1, R@5 and R@10, both ways.
            "metric": ("heldout_vendor*/mean_recall",),
            "tables": {
                "Training vendors": ("trained_vendor*/mean_recall",),
            },
            "primary": (("timix", "plain"),),
            "amounts": AMOUNTS,
            "baseline": "plain",
            "fresh": "40k",
        }
    )
