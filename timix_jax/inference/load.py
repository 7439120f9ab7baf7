"""Open a model by its path; each kind of folder has its own reader."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
from etils import epath

from timix_jax import checkpointing
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError
from timix_jax.inference.model import LoadedModel
from timix_jax.inference.programs import is_program_folder, load_programs
from timix_jax.inference.published import load_published
from timix_jax.parallel.mesh import make_mesh, replicated
from timix_jax.parallel.sharding import with_shardings
from timix_jax.pretrained import is_weights
from timix_jax.runtime.devices import check_backend
from timix_jax.runtime.remote import as_path, check_reachable
from timix_jax.training.build import build_model
from timix_jax.training.build.stored import stored_settings

Weights = Literal["params", "ema"]


def load_model(
    path: str | os.PathLike[str],
    *,
    weights: Weights | None = None,
    batch_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Open a trained model.

    Args:
      path: a working folder (its newest checkpoint), its checkpoints folder, or a step in it, local or gs://; or
        published or exported weights, a file or a folder.
      weights: "params" or "ema", their moving average; None for those that the run itself evaluates.
      batch_size: images or texts per batch over all devices; None for a moderate one.
      tokenizer: vocabulary of published weights; None for the one next to them.
      settings: fields that published weights do not state, such as `{"model.image.act": "quick_gelu"}`, and sizes to
        which they are fitted, such as `{"model.image.size": 336}`.

    Raises:
      UserError: there is no model, its files are damaged, or it is of a kind that this process does not know.

    **Example:** `timix_jax.load("runs/demo").encode_text(["a lemon and two skis"])`
    """
    check_backend()
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size={batch_size}: give at least 1")
    folder = as_path(path)
    check_reachable(folder, "")
    if not folder.exists():
        raise UserError(f"{folder} does not exist: give the folder of a run, or a checkpoint in it")
    if is_program_folder(folder):
        return load_programs(folder, batch_size=batch_size)
    if is_weights(folder):
        if weights is not None:
            raise UserError(
                f"weights={weights!r}: {folder} holds published weights, without average"
            )
        return load_published(folder, tokenizer=tokenizer, settings=settings, batch_size=batch_size)
    if tokenizer is not None or settings:
        raise UserError(
            f"{folder} is a run, which has its own tokenizer and settings: leave out both"
        )
    return checkpointing.read_newest(folder, lambda step: _load_step(step, weights, batch_size))


def _load_step(step: epath.Path, weights: Weights | None, batch_size: int | None) -> LoadedModel:
    """Read a checkpoint of this project; its weights go straight to every device."""
    meta = checkpointing.read_meta(step)
    missing = [name for name in ("config", "tokenizer") if name not in meta]
    if missing:
        raise UserError(
            f"checkpoint {step} holds no {missing[0]}: it was not written by a training"
        )
    try:
        settings = stored_settings(meta["config"])
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        part = _part(weights or settings.eval.weights, averaged=settings.optim.ema > 0)
        model = build_model(
            settings,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            eot_id=tokenizer.sep_id,
        )
    except UserError as error:
        raise type(error)(f"checkpoint {step} cannot be loaded: {error}") from error
    mesh = make_mesh(jax.local_devices())
    abstract: Any = jax.eval_shape(model.init, jax.random.key(0))
    everywhere = jax.tree.map(lambda _: replicated(mesh), abstract)
    params = checkpointing.restore_params(step, with_shardings(abstract, everywhere), part=part)
    return LoadedModel(
        model.for_evaluation(),
        params,
        mesh,
        tokenizer,
        image_size=settings.model.image.size,
        max_tokens=settings.model.text.max_tokens,
        batch_size=batch_size or min(settings.eval.batch_size, 64 * mesh.size),
        predictor_trained=settings.loss.terms["pta"]["weight"] > 0,
        origin=str(step),
        settings={n: v for n, v in settings.flat.items() if n.startswith("model.")},
    )


def _part(weights: str, *, averaged: bool) -> str:
    if weights not in ("params", "ema"):
        raise UserError(f"weights={weights!r}; use 'params' or 'ema'")
    if weights == "ema" and not averaged:
        raise UserError("weights='ema': the run kept no moving average; use 'params'")
    return "ema_params" if weights == "ema" else "params"
