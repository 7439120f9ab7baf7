"""The schema of the configuration: every field with its default.

A default that a class or function has as well is taken from there. The fields of mixers, evaluators, objectives
and models are those of their classes, so that registering one also gives it its configuration.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from typing import Any, get_type_hints

import jax.numpy as jnp
from ml_collections import ConfigDict

from timix_jax.checkpointing import Checkpointer
from timix_jax.config.field_values import is_duration
from timix_jax.data.images.augment import Augment
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.evaluators import EVALUATORS
from timix_jax.mixing import MIXERS
from timix_jax.models import MODELS, RUN_FIELDS
from timix_jax.objectives import OBJECTIVES
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import PairReduction
from timix_jax.optim.optimizer import make_optimizer
from timix_jax.parallel.layout import Layout
from timix_jax.parallel.mesh import make_mesh
from timix_jax.reporting.metrics import MetricsWriter

# Fields that may change between a run and its resumption.
MUTABLE_FIELDS = (
    "log",
    "eval",
    "checkpoint",
    "pictures",
    "data.threads",
    "data.processes",
    "model.remat",
    "model.scan",
    "train.accumulate",
    "mesh",
    "contrastive.method",
    "contrastive.chunk",
)


def default_config() -> ConfigDict:
    """Return every field with its default; a recipe in configs/ overrides and comments them."""
    dual_encoder = MODELS["dual_encoder"]
    kinds = get_type_hints(dual_encoder)
    config: dict[str, Any] = {
        "seed": 0,
        "init_from": "",
        "init_from_image": "",
        "init_from_text": "",
        "init_pixels": "",
        "data": {
            "train": (),
            "weights": (),
            **_defaults(make_train_iterator, threads="num_threads", processes="num_processes"),
            "tokenizer": "wordpiece",
            "vocab_size": 8192,
        },
        "augment": _fields(Augment),
        "model": {
            "name": "dual_encoder",
            **_defaults(dual_encoder, "embed_dim", "tpp_layer", temperature="temperature_init"),
            **_defaults(dual_encoder, "temperature_range"),
            "logit_bias": -10.0,  # initial value of the learned bias, which only the sigmoid loss has
            **_defaults(dual_encoder, "act"),
            "dtype": jnp.dtype(_default(dual_encoder, "dtype")).name,
            **_defaults(dual_encoder, "scan", "remat"),
            "image": {
                "size": 256,
                "patch": 16,
                "width": 768,
                "depth": 12,
                "heads": 12,
                "mlp_dim": 3072,
                **_defaults(dual_encoder, "pool", "patch_dropout"),
                **_defaults(kinds["image"], "stem"),
                **_defaults(kinds["image_variant"], *kinds["image_variant"]._fields),
            },
            "text": {
                "max_tokens": 40,
                "width": 768,
                "depth": 12,
                "heads": 12,
                "mlp_dim": 3072,
                **_defaults(dual_encoder, pre_norm="text_pre_norm"),
                **_defaults(kinds["text_variant"], *kinds["text_variant"]._fields),
                **_defaults(dual_encoder, dropout="text_dropout"),
            },
            # The dual encoder's are the fields above.
            "options": {
                name: _fields(kind, without=RUN_FIELDS)
                for name, kind in MODELS.items()
                if name != "dual_encoder"
            },
        },
        "contrastive": {"loss": PairLoss.kind.name, **_defaults(PairReduction, "method", "chunk")},
        "mix": {
            "mixer": "none",
            "options": {name: _fields(kind) for name, kind in MIXERS.items() if kind},
            "captions": "own",
            "separators": (",", ";", "and", "with"),
            "score": "tpp",
            **_fields(OBJECTIVES["mix"]),
            "until": "100%",
        },
        "loss": {
            name: _fields(kind) | ({"weight": 0.0} if name != "itc" else {})
            for name, kind in OBJECTIVES.items()
            if name != "mix"
        },
        "regions": {
            **_defaults(make_train_iterator, batch_size="region_batch_size"),
            **_defaults(make_train_iterator, "max_regions"),
            "max_tokens": 0,
        },
        "optim": {
            "name": "adamw",
            "lr": 1e-4,
            "lr_scales": (),
            **_defaults(make_optimizer, "layer_decay"),
            "warmup": "2000 steps",
            "start_lr": 1e-6,
            "end_lr": 1e-6,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.02,
            "clip_norm": 1.0,
            "ema": 0.0,
        },
        "train": {"batch_size": 1024, "duration": "30 epochs", "accumulate": 1},
        "mesh": {
            **_defaults(make_mesh, "data", "fsdp", "tensor"),
            **_defaults(Layout, "rules", "small"),
        },
        "checkpoint": {"every": "10%", **_defaults(Checkpointer, "keep_last"), "keep_every": 0},
        "log": {
            "every": "50 steps",
            **_defaults(MetricsWriter, "tensorboard", "wandb"),
            "peak_tflops": 0.0,
        },
        "eval": {
            "sets": (),
            "evaluators": ("retrieval", "patch_text"),
            "options": {name: _fields(kind) for name, kind in EVALUATORS.items()},
            "every": "25%",
            "batch_size": 256,
            "weights": "params",
        },
        "pictures": {"examples": 6},
    }
    return ConfigDict(config).lock()


def _defaults(function: Callable[..., Any], *same: str, **renamed: str) -> dict[str, Any]:
    """Return the defaults of some arguments, by the names of their fields.

    Args:
      function: a function or class.
      *same: arguments whose fields have the same name.
      **renamed: field → argument.
    """
    fields = {name: name for name in same} | renamed
    return {field: _default(function, name) for field, name in fields.items()}


def _default(function: Callable[..., Any], argument: str) -> Any:
    return inspect.signature(function).parameters[argument].default


def _fields(kind: type, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the configured fields of a registered dataclass with their defaults; durations may be text."""
    return {
        f.name: f"{f.default} steps" if is_duration(f.name) else f.default
        for f in dataclasses.fields(kind)
        if f.metadata.get("configured", True)
        and f.default is not dataclasses.MISSING
        and f.name not in without
    }
