"""The pictures of a finished run."""

from typing import Any

from absl import logging
from etils import epath

from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.reporting.plots.curves import training_curves
from timix_jax.reporting.plots.mixing_examples import draw_mixing_sheet
from timix_jax.runtime.workdir import METRICS_FILE
from timix_jax.training.build import Experiment

PICTURES_FOLDER = "pictures"


def draw_run(run: Experiment, params: Any, folder: epath.Path) -> None:
    """Training curves, and the mixing sheet where windows are mixed; `params` is on the host.

    An error is logged and not raised: the run is done, and its weights and figures are written.
    """
    try:
        _draw(run, params, folder)
    except Exception:
        logging.exception("the pictures of %s could not be drawn; all else is complete", folder)


def _draw(run: Experiment, params: Any, folder: epath.Path) -> None:
    pictures = folder / PICTURES_FOLDER
    curves = pictures / "training_curves.png"
    training_curves(folder / METRICS_FILE, curves, f"Training of {folder.name}")
    for objective in run.objectives:
        if isinstance(objective, MixedContrastive):
            batch = run.first_batch()
            # Few rows, and two at least, for each to have a partner: one device takes them all at once.
            rows = 2 * max(run.config.pictures.examples, 1)
            batch = {name: batch[name][:rows] for name in batch.keys() - {"example_id", "regions"}}
            draw_mixing_sheet(
                pictures / "mixing.png",
                model=run.model,
                objective=objective,
                params=params,
                batch=batch,
                captions=[run.tokenizer.decode(row) for row in batch["tokens"]],
                examples=run.config.pictures.examples,
                seed=run.seed,
                title=f"{type(objective.mixer).__name__} on {run.sources[0].name}",
            )
