"""The pictures of a finished run."""

from typing import Any

from etils import epath

from timix_jax.analysis.curves import training_curves
from timix_jax.analysis.mixing_examples import draw_mixing_sheet
from timix_jax.experiment import Experiment
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.workdir import METRICS_FILE

PICTURES_FOLDER = "pictures"


def draw_run(run: Experiment, params: Any, folder: epath.Path) -> None:
    """Training curves, and the mixing sheet where windows are mixed; ``params`` is on the host."""
    pictures = folder / PICTURES_FOLDER
    curves = pictures / "training_curves.png"
    training_curves(folder / METRICS_FILE, curves, f"Training of {folder.name}")
    for objective in run.objectives:
        if isinstance(objective, MixedContrastive):
            batch = run.first_batch()
            batch.pop("example_id")
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
