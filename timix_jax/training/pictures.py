"""The pictures of a finished run: its training curves, a mixing sheet and caption sheets."""

from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from timix_jax.evaluators import Evaluator
from timix_jax.evaluators.captions import CaptionEvaluator
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.reporting.plots.curves import training_curves
from timix_jax.runtime.workdir import METRICS_FILE
from timix_jax.training.build import Experiment
from timix_jax.training.caption_examples import draw_caption_sheet
from timix_jax.training.mixing_examples import draw_mixing_sheet

PICTURES_FOLDER = "pictures"


Evaluators = Mapping[str, list[Evaluator]]


def draw_run(
    run: Experiment, params: Any, folder: epath.Path, evaluators: Evaluators | None = None
) -> None:
    """Draw the training curves, for objectives that mix windows a mixing sheet, and captions of each set.

    An error is logged and not raised: the run is complete, with its weights and results written.

    Args:
      run: what was trained.
      params: its weights, on the host.
      folder: the working folder; the pictures go to its folder `pictures`.
      evaluators: evaluation set → its evaluators, of which those of captions have examples drawn.
    """
    try:
        _draw(run, params, folder)
        _draw_captions(params, folder, evaluators or {})
    except Exception:
        logging.exception("the pictures of %s could not be drawn; all else is complete", folder)


def _draw(run: Experiment, params: Any, folder: epath.Path) -> None:
    pictures = folder / PICTURES_FOLDER
    curves = pictures / "training_curves.png"
    training_curves(folder / METRICS_FILE, curves, f"Training of {folder.name}")
    for objective in run.objectives:
        if isinstance(objective, MixedContrastive):
            batch = run.first_batch()
            # Few rows, which one device takes at once, but at least two, so that each has a partner.
            examples = run.settings.pictures.examples
            rows = 2 * examples
            batch = {name: batch[name][:rows] for name in batch.keys() - {"example_id", "regions"}}
            draw_mixing_sheet(
                pictures / "mixing.png",
                model=run.model,
                objective=objective,
                params=params,
                batch=batch,
                captions=[run.tokenizer.decode(row) for row in batch["tokens"]],
                examples=examples,
                seed=run.seed,
                title=f"{type(objective.mixer).__name__} on {run.sources[0].name}",
            )


def _draw_captions(params: Any, folder: epath.Path, evaluators: Evaluators) -> None:
    for name, several in evaluators.items():
        for evaluator in several:
            if isinstance(evaluator, CaptionEvaluator):
                path = folder / PICTURES_FOLDER / f"captions_{name}.png"
                draw_caption_sheet(path, evaluator, params, f"Captions of {name}")
