"""Logits and gradients of transformers' BlipTextLMHeadModel, for tests/fixtures/blip_decoder.npz.

Written where torch and transformers are installed: `python tests/support/blip_decoder_cases.py`. Weights and inputs are
drawn by name, so that the tests have the same ones.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

FIXTURE = Path(__file__).parent.parent / "fixtures" / "blip_decoder.npz"
BATCH = 3


class Case(NamedTuple):
    """Shape of a decoder and of what it reads."""

    vocab_size: int
    max_tokens: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    states_width: int
    states: int
    eps: float = 1e-12


CASES = {"small": Case(19, 7, 8, 2, 2, 12, 10, 5), "wide": Case(23, 9, 18, 3, 3, 20, 18, 4)}


def draw(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weights of a parameter, or the values of an input, by its name."""
    rng = np.random.default_rng(zlib.crc32(f"{case}/{name}".encode()))
    values = rng.standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        return np.float32(1 + 0.2 * values)
    return np.float32(0.4 * values)


def inputs(case: str) -> dict[str, np.ndarray]:
    """Return tokens (B, T) with padding 0 at the end, states (B, S, Cs), their mask, a cotangent of the logits."""
    shape = CASES[case]
    rng = np.random.default_rng(zlib.crc32(f"{case}/inputs".encode()))
    tokens = rng.integers(1, shape.vocab_size, (BATCH, shape.max_tokens))
    length = rng.integers(3, shape.max_tokens + 1, BATCH)
    mask = rng.random((BATCH, shape.states)) < 0.7
    mask[:, 0] = True
    return {
        "tokens": np.where(np.arange(shape.max_tokens) < length[:, None], tokens, 0),
        "states": draw(case, "states", (BATCH, shape.states, shape.states_width)),
        "mask": mask,
        "cotangent": draw(case, "cotangent", (BATCH, shape.max_tokens, shape.vocab_size)),
    }


def main() -> None:
    import torch
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    stored = {}
    for case, shape in CASES.items():
        config = BlipTextConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.width,
            encoder_hidden_size=shape.states_width,
            intermediate_size=shape.mlp_dim,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.max_tokens,
            layer_norm_eps=shape.eps,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=0,
            is_decoder=True,
            tie_word_embeddings=True,
        )
        model = BlipTextLMHeadModel(config).eval()
        model.tie_weights()
        for name, parameter in model.named_parameters():
            parameter.data = torch.from_numpy(draw(case, name, tuple(parameter.shape)))
        model.tie_weights()
        given = {name: torch.from_numpy(value) for name, value in inputs(case).items()}
        given["states"].requires_grad_(True)
        logits = model(
            input_ids=given["tokens"],
            attention_mask=torch.ones_like(given["tokens"]),
            encoder_hidden_states=given["states"],
            # No mask of the states: transformers 5.24 does not hand it to the cross-attention.
            is_decoder=True,
        ).logits
        # Padding comes last, so that no other position reads it; its own logits do not count.
        counted = (given["tokens"] != 0)[..., None]
        (logits * given["cotangent"] * counted).sum().backward()
        stored[f"{case}/logits"] = (logits * counted).detach().numpy()
        stored[f"{case}/states"] = given["states"].grad.numpy()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                stored[f"{case}/{name}"] = parameter.grad.numpy()
    np.savez_compressed(FIXTURE, **stored)


if __name__ == "__main__":
    main()
