"""open_clip's text tower of kind `hf_model_name`, if that is a BERT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import bert
from timix_jax.pretrained.layouts.base import Shapes
from timix_jax.pretrained.leaves import TRANSPOSED, Leaf, Leaves
from timix_jax.pretrained.weight_files import Shape, WeightFiles

AT = "text.transformer."
PROJECTION = "text.proj.weight"
# Other poolers of open_clip take BERT's own pooling layer, which the text tower lacks.
POOLERS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls"}


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Return True for BERT's names below `text.transformer.`."""
    return f"{AT}embeddings.word_embeddings.weight" in shapes


def text_tower(
    files: WeightFiles, shapes: Shapes, config: dict[str, Any] | None, run: Mapping[str, Any]
) -> tuple[dict[str, Any], Leaves]:
    """Return settings and leaves; BERT's configuration lies next to the weights or in the folder `hf_model_name`."""
    options = (config or {}).get("text_cfg", {})
    pooler = options.get("hf_pooler_type", "mean_pooler")
    if pooler not in POOLERS:
        raise UserError(
            f"open_clip_config.json states hf_pooler_type={pooler!r}, which the towers cannot express (only"
            f" {' or '.join(map(repr, POOLERS))})"
        )
    if "text.proj.0.weight" in shapes:
        raise UserError("projects texts by two layers, which the towers cannot express")
    settings, leaves = bert.tower(_config(files, options), shapes, run, AT)
    projected = PROJECTION in shapes
    settings |= {
        "model.text.pool": POOLERS[pooler],
        "model.text.projection": "linear" if projected else "none",
    }
    if projected:
        leaves["projection/kernel"] = Leaf((PROJECTION,), TRANSPOSED)
    return settings, leaves


def _config(files: WeightFiles, options: Mapping[str, Any]) -> dict[str, Any] | None:
    content = files.json("config.json")
    if content is not None and "model_type" in content:
        return content
    folder = Path(options.get("hf_model_name") or "")
    if not (folder / "config.json").is_file():
        return None
    return WeightFiles(folder, folder, {}, {}).json("config.json")
