"""How published weights had images resized, by their own configuration file."""

from typing import Any

from timix_jax.data.images.preprocess import Filter, Preprocess
from timix_jax.errors import UserError
from timix_jax.pretrained.layouts.huggingface import processor_config
from timix_jax.pretrained.layouts.open_clip_towers import CONFIG_FILE
from timix_jax.pretrained.weight_files import WeightFiles

_PILLOW_FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
_FILTERS: dict[str, Filter] = {"bilinear": "bilinear", "bicubic": "bicubic", "random": "bicubic"}


def preprocess_of(files: WeightFiles) -> Preprocess:
    """Return how images become squares; without a file, squeezed by a bicubic filter, as SigLIP and ViT do.

    Raises:
      UserError: the file states a way that is not known.
    """
    stated = (files.json(CONFIG_FILE) or {}).get("preprocess_cfg")
    if stated is not None:
        return _open_clip(stated)
    stated = processor_config(files)
    return Preprocess("bicubic") if stated is None else _huggingface(stated)


def _open_clip(stated: dict[str, Any]) -> Preprocess:
    mode, name = stated.get("resize_mode", "shortest"), stated.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or name not in _FILTERS:
        raise UserError(
            f"{CONFIG_FILE} states resize_mode={mode!r} and interpolation={name!r}; images can be resized by"
            " 'shortest' or 'squash', 'bilinear' or 'bicubic'"
        )
    return Preprocess(_FILTERS[name], crop=mode == "shortest")


def _huggingface(stated: dict[str, Any]) -> Preprocess:
    resample = stated.get("resample", 3)
    if resample not in _PILLOW_FILTERS:
        raise UserError(
            f"preprocessor_config.json states resample={resample}; known are 2 (bilinear) and 3 (bicubic)"
        )
    name = _PILLOW_FILTERS[resample]
    size = stated.get("size", {})
    short = size if isinstance(size, int) else size.get("shortest_edge")
    # A bare number squeezes the image, unless a crop is asked for.
    crops = stated.get("do_center_crop", isinstance(size, dict) and short is not None)
    if not crops or short is None:
        return Preprocess(name)
    crop = stated.get("crop_size", short)
    side = crop if isinstance(crop, int) else crop.get("height", short)
    return Preprocess(name, crop=True, zoom=short / side)
