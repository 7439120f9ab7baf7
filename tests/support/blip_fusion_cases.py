"""Outputs and gradients of transformers' BlipTextModel with image states, for tests/fixtures/blip_fusion.npz.

Written where torch and transformers are installed: `python tests/support/blip_fusion_cases.py`. Weights and inputs are
drawn by name, so that the tests have the same ones.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIXTURE = Path(__file__).parent.parent / "fixtures" / "blip_fusion.npz"
BATCH = 3


class Case(NamedTuple):
    """Shape of a stack and of what it reads."""

    width: int
    depth: int
    heads: int
    mlp_dim: int
    states_width: int
    tokens: int
    states: int


CASES = {"small": Case(8, 2, 2, 12, 10, 5, 4), "wide": Case(18, 3, 3, 20, 18, 7, 3)}


def draw(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weights of a parameter, or the values of an input, by its name."""
    values = np.random.default_rng(zlib.crc32(f"{case}/{name}".encode())).standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        return np.float32(1 + 0.2 * values)
    return np.float32(0.4 * values)


def inputs(case: str) -> dict[str, np.ndarray]:
    """Return hidden states x (B, T, C), their mask, image states (B, S, Cs), a cotangent of the outputs."""
    shape = CASES[case]
    rng = np.random.default_rng(zlib.crc32(f"{case}/inputs".encode()))
    length = rng.integers(2, shape.tokens + 1, BATCH)
    x = (BATCH, shape.tokens, shape.width)
    return {
        "x": 2 * draw(case, "x", x),
        "mask": np.arange(shape.tokens) < length[:, None],
        "states": 2 * draw(case, "states", (BATCH, shape.states, shape.states_width)),
        "cotangent": draw(case, "cotangent", x),
    }


def main() -> None:
    """Write the fixture."""
    import torch
    from transformers import BlipTextConfig, BlipTextModel

    saved = {}
    for case, shape in CASES.items():
        config = BlipTextConfig(
            vocab_size=11,
            hidden_size=shape.width,
            encoder_hidden_size=shape.states_width,
            intermediate_size=shape.mlp_dim,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            max_position_embeddings=16,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            is_decoder=True,  # what makes cross-attention; the pass below is bidirectional
        )
        model = BlipTextModel(config, add_pooling_layer=False).double().eval()
        for name, parameter in model.named_parameters():
            if name.startswith("encoder."):
                values = draw(case, name.removeprefix("encoder."), tuple(parameter.shape))
                parameter.data = torch.from_numpy(np.float64(values))
        given = inputs(case)
        x, states = (
            torch.from_numpy(np.float64(given[n])).requires_grad_() for n in ("x", "states")
        )
        y = model(
            encoder_embeds=x,
            attention_mask=torch.from_numpy(given["mask"]).long(),
            encoder_hidden_states=states,
            is_decoder=False,
        ).last_hidden_state
        (y * torch.from_numpy(given["cotangent"])).sum().backward()
        saved[f"{case}/y"] = y.detach().numpy()
        saved[f"{case}/x"], saved[f"{case}/states"] = x.grad.numpy(), states.grad.numpy()
        for name, parameter in model.named_parameters():
            if name.startswith("encoder."):
                saved[f"{case}/{name.removeprefix('encoder.')}"] = parameter.grad.numpy()
    np.savez_compressed(FIXTURE, **{name: np.float32(value) for name, value in saved.items()})


if __name__ == "__main__":
    main()
