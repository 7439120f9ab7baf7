"""open_clip's CLIP as a PyTorch training step of the same model as ours. Imports no JAX.

    pip install torch open_clip_torch    # into any environment; see --torch_python of benchmarks.open_clip_step

Where torchvision is missing, or does not load with the installed torch, an empty stand-in takes its place:
open_clip imports it for its image transforms and its ResNet alone, and neither is used here.
"""

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.open_clip_shared import (
    CLIP_NORM,
    LEARNING_RATE,
    NORM_EPS,
    TEMPERATURE_RANGE,
    WEIGHT_DECAY,
    Architecture,
)

Step = Callable[[], tuple[torch.Tensor, torch.Tensor]]


class _StandIn(types.ModuleType):
    """A module in which every name is a class that holds only what default arguments name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"BICUBIC": None, "BILINEAR": None})


def import_open_clip() -> Any:
    """Import open_clip, with a stand-in for torchvision if that does not load."""
    try:
        importlib.import_module("torchvision.ops.misc")
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("transforms", "transforms.functional", "ops", "ops.misc"):
            parent, _, leaf = f"torchvision.{name}".rpartition(".")
            module = sys.modules[f"torchvision.{name}"] = _StandIn(leaf)
            setattr(sys.modules.setdefault(parent, _StandIn(parent)), leaf, module)
    return importlib.import_module("open_clip")


def build(sizes: Architecture, seed: int = 0) -> Any:
    """Build open_clip.model.CLIP in float32 on the CPU.

    The patch convolution gets a bias, as ours has one, and the class token no second, redundant offset: its
    position is what is trained.
    """
    open_clip = import_open_clip()
    torch.manual_seed(seed)
    norm = {"eps": NORM_EPS}
    model = open_clip.model.CLIP(
        sizes.embed_dim,
        {
            "image_size": sizes.image_size,
            "patch_size": sizes.patch,
            "width": sizes.width,
            "layers": sizes.layers,
            "head_width": sizes.head_width,
            "no_ln_pre": True,
            "norm_kwargs": norm,
        },
        {
            "context_length": sizes.context,
            "vocab_size": sizes.vocab_size,
            "width": sizes.text_width,
            "heads": sizes.text_heads,
            "layers": sizes.text_layers,
            "no_causal_mask": True,
            "pool_type": "first",
            "norm_kwargs": norm,
        },
    )
    visual = model.visual
    convolution = torch.nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)
    convolution.weight = visual.conv1.weight
    torch.nn.init.zeros_(convolution.bias)
    visual.conv1 = convolution
    torch.nn.init.zeros_(visual.class_embedding)
    visual.class_embedding.requires_grad_(False)
    return model


def loss_of(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return open_clip's own contrastive loss of its model's features."""
    image = model.encode_image(batch["image"], normalize=True)
    text = model.encode_text(batch["tokens"], normalize=True)
    return import_open_clip().ClipLoss()(image, text, model.logit_scale.exp())


def tensors(batch: Mapping[str, np.ndarray], device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return the batch as open_clip takes it: image (B, 3, H, W), tokens int64."""
    image = np.ascontiguousarray(batch["image"].transpose(0, 3, 1, 2))
    both = {"image": torch.from_numpy(image), "tokens": torch.from_numpy(batch["tokens"]).long()}
    return {name: tensor.to(device) for name, tensor in both.items()}


def named_arrays(model: Any, *, gradients: bool = False) -> dict[str, np.ndarray]:
    """Return name → copy of each parameter, or of its gradient (0 for the class token, which has none)."""
    return {
        name: (
            np.zeros(p.shape, np.float32)
            if gradients and p.grad is None
            else (p.grad if gradients else p.detach()).cpu().numpy().copy()
        )
        for name, p in model.named_parameters()
    }


def make_step(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    *,
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Step:
    """Build forward, backward, clipping and a fused AdamW, returning loss and gradient norm before clipping.

    Args:
      model: trained in place.
      batch: of `tensors`, where the model is; the same at every step.
      compiled: through torch.compile (inductor, which needs a C++ compiler).
      dtype: of the products; below float32 by autocast, as with open_clip's `--precision amp_bf16`.
    """
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, p in model.named_parameters():
        exempt = p.ndim < 2 or name.endswith("positional_embedding")
        (others if exempt else decayed).append(p)
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in others if p.requires_grad], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )
    low, high = (float(np.log(1 / t)) for t in reversed(TEMPERATURE_RANGE))
    forward = torch.compile(loss_of) if compiled else loss_of
    device = batch["image"].device.type

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = forward(model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(low, high)
        return loss.detach(), norm

    return step
