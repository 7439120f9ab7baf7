"""Open published weights, and models that `timix_jax.export` wrote in a published layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from timix_jax.errors import UserError, error_prefix
from timix_jax.inference.images import OWN
from timix_jax.inference.model import LoadedModel
from timix_jax.inference.tokenizer_files import find_tokenizer
from timix_jax.models.protocols import ImageTextModel
from timix_jax.parallel.mesh import make_mesh, replicated
from timix_jax.parallel.paths import map_with_names
from timix_jax.pretrained import PublicWeights, read_public
from timix_jax.pretrained.preprocessing import preprocess_of
from timix_jax.training.build import build_model
from timix_jax.training.build.stored import stored_settings

_BATCH_SIZE = 64  # per device
_DRAWN = 0.02  # deviation of what the weights do not have
_WORDS = "text/word_embed/embedding"
# Of a tower that the weights do not have.
_NO_IMAGE = {"size": 4, "patch": 4, "width": 4, "depth": 1, "heads": 1, "mlp_dim": 4}
_NO_TEXT = {"max_tokens": 4, "width": 4, "depth": 1, "heads": 1, "mlp_dim": 4}


def load_published(
    path: epath.PathLike,
    *,
    tokenizer: epath.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
) -> LoadedModel:
    """Open published weights of both towers or of one; arguments as those of `load_model`.

    Raises:
      UserError: an unknown or damaged file, settings that nobody states, no tokenizer, or one of other weights.
    """
    given = dict(settings or {})
    weights = read_public(path, given=given)
    with error_prefix(f"{weights.source} "):
        fields, towers = settings_of(weights, given)
        words = find_tokenizer(weights.files, fields, tokenizer) if "text" in towers else None
        rows = weights.leaves[_WORDS].shape(weights.files.shapes)[0] if words else 1
        if words and words.vocab_size > rows:
            raise UserError(
                f"has {rows:,} words, and its tokenizer {words.vocab_size:,}: give tokenizer='FILE', the one that these"
                " weights were trained with"
            )
        pad_id, eot_id = (words.pad_id, words.sep_id) if words else (0, 0)
        complete = stored_settings(fields)
        model = build_model(complete, vocab_size=rows, pad_id=pad_id, eot_id=eot_id)
        preprocess = preprocess_of(weights.files)
    own = weights.files.own()
    mesh = make_mesh(jax.local_devices())
    params = place_weights(weights, model, mesh)
    return LoadedModel(
        model,
        params,
        mesh,
        words,
        image_size=fields["model.image.size"],
        max_tokens=fields["model.text.max_tokens"],
        batch_size=batch_size or _BATCH_SIZE * mesh.size,
        predictor_trained=own.get("predictor_trained", False),
        origin=str(weights.files.path),
        preprocess=OWN if own else preprocess,
        towers=towers,
        settings={n: v for n, v in complete.flat.items() if n.startswith("model.")},
    )


def settings_of(
    weights: PublicWeights, given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return all settings of the model, and the towers that the weights have."""
    towers = tuple(tower for tower in ("image", "text") if getattr(weights.contents, tower))
    fields = {n: v for n, v in given.items() if n != "init_pixels"} | dict(weights.settings)
    if len(towers) == 1:
        (tower,) = towers
        other, sizes = ("text", _NO_TEXT) if tower == "image" else ("image", _NO_IMAGE)
        fields |= {f"model.{other}.{name}": value for name, value in sizes.items()}
        fields["model.embed_dim"] = fields[f"model.{tower}.width"]
        fields[f"model.{tower}.projection"] = "none"
    if towers == ("text",) and "model.text.pool" not in fields:
        fields["model.text.pool"] = _stated_pool(weights)
    own = weights.files.own()
    depth = fields["model.image.depth"]
    fields["model.tpp_layer"] = own.get("tpp_layer", min(5, depth - 1))
    fields["contrastive.loss"] = "sigmoid" if "logit_bias" in weights.leaves else "softmax"
    return fields, towers


def _stated_pool(weights: PublicWeights) -> str:
    """Return how a sentence encoder pools."""
    pooling = weights.files.json("1_Pooling/config.json") or {}
    if pooling.get("pooling_mode_mean_tokens"):
        return "mean"
    if pooling.get("pooling_mode_cls_token"):
        return "cls"
    raise UserError(
        "has no 1_Pooling/config.json that states how texts are pooled: give settings={'model.text.pool': 'mean'} or"
        " 'cls'"
    )


def place_weights(weights: PublicWeights, model: ImageTextModel, mesh: Mesh) -> Any:
    """Return the model's parameters on every device of `mesh`; what the weights do not have is drawn.

    That is the patch predictor, mostly: drawing it here needs no compilation of the model's own initialisation.
    """
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    missing = set(weights.check(abstract).fresh)
    everywhere, rng = replicated(mesh), np.random.default_rng(0)

    def place(name: str, shape: Any) -> Any:
        if name not in missing:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=everywhere)
        values = _DRAWN * rng.standard_normal(shape.shape)
        return jax.device_put(np.asarray(values, shape.dtype), everywhere)

    return weights.load(map_with_names(place, abstract))[0]
