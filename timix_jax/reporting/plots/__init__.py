"""Plots: mixing sheets, training curves, comparison charts; the only package with Matplotlib.

May import evaluators (which curves share a panel) and runtime.
"""

import contextlib
import os


def _import_matplotlib() -> None:
    """Import Matplotlib whatever MPLBACKEND says: notebooks export a backend that may not be installed here.

    Matplotlib refuses an unknown name when it is imported. Our pictures need no backend, as they are only written to
    files; a name that it knows stays in effect for windows of the caller.
    """
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen
    if chosen:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = chosen


_import_matplotlib()
