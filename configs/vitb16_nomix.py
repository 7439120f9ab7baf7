"""`configs/vitb16.py` without mixing: the baseline, all else equal."""

from ml_collections import ConfigDict

from configs.vitb16 import get_config as base


def get_config() -> ConfigDict:
    """The recipe of `configs.vitb16` with the mixer off."""
    c = base()
    c.mix.mixer = "none"  # nothing else changes: the runs differ only in mixing
    return c
