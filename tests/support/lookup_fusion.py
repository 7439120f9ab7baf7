"""A lookup model with a fusion encoder, whose match logits and words come from tables too."""

from dataclasses import dataclass

import jax.numpy as jnp
from lookup_model import LookupModel

from timix_jax.models.fusion_protocols import FusedFeatures


@dataclass(frozen=True)
class LookupFusion(LookupModel):
    """Further parameters: match (N, M, 2) logits of pairs, words (N, V) logits of the words in an image's captions."""

    vocab_size: int = 8
    tau: float = 0.5

    def encode_text(self, params, tokens):
        features = super().encode_text(params, tokens)
        return features._replace(tokens=tokens[..., None].astype(jnp.float32))

    def temperature(self, params):
        return jnp.float32(self.tau)

    def image_memory(self, params, tokens):
        return tokens[:, 0]  # (B, 1) the number of the image

    def fuse(self, params, states, mask, memory, *, key=None):
        image = jnp.repeat(memory, len(states) // len(memory), axis=0)
        image = jnp.broadcast_to(image[:, None], states.shape)
        return FusedFeatures(jnp.concatenate([image, states], axis=-1))

    def itm_logits(self, params, states):
        image, text = states[:, 1].astype(jnp.int32).T  # token 1 is the number of the caption
        return params["match"][image, text]

    def word_logits(self, params, states):
        return params["words"][states[..., 0].astype(jnp.int32)]
