"""What matching adds to the similarities of ALBEF on emoji scenes, over seeds: read the tables "gain"."""

from ml_collections import ConfigDict

RECALL = ("heldout_vendor/?2?_r?", "heldout_vendor/?2?_r10")
# One run per core, so threads instead of processes.
COMMON = ("data.processes=0", "data.threads=1", "pictures.examples=0", "checkpoint.every=100%")


def harder_to(beta: float) -> tuple[str, ...]:
    """Return the changes for negatives whose hardness ends at β."""
    return (f"loss.itm.hardness={beta}", f"eval.options.reranked.hardness={beta}")


def get_config() -> ConfigDict:
    """The recipe as it is, negatives that become half as hard, and ones that become harder to the end."""
    return ConfigDict(
        {
            "recipe": "configs/albef_tiny.py",
            "common": COMMON,
            "methods": {
                "recipe": (),
                "half": harder_to(0.5),
                "to_the_end": ("loss.itm.hardness_steps=100%",),
            },
            "seeds": (0, 1, 2),
            "metric": RECALL,
            "tables": {
                "Re-ranked by match and similarity": (
                    "heldout_vendor/itm_itc_?2?_r?",
                    "heldout_vendor/itm_itc_?2?_r10",
                ),
                "Gain by match and similarity, unseen vendor": ("heldout_vendor/itm_itc_gain",),
                "Gain by match and similarity, training vendors": ("trained_vendor/itm_itc_gain",),
                "Gain by match alone, unseen vendor": ("heldout_vendor/itm_gain",),
            },
        }
    )
