"""ALBEF (arXiv 2107.07651): a dual encoder whose captions then read the image, with two heads (docs/method.md §5)."""

from dataclasses import dataclass
from typing import Any

import jax

from timix_jax.errors import UserError
from timix_jax.models.contains_dual import ContainsDualEncoder
from timix_jax.models.cross_block import CrossStack, Memory
from timix_jax.models.dropout import Dropout
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.fusion_protocols import FusedFeatures
from timix_jax.models.heads import MatchHead, WordHead
from timix_jax.models.microbatches import in_microbatches
from timix_jax.models.protocols import Params

Array = jax.Array


@dataclass(frozen=True)
class Albef(ContainsDualEncoder):
    """A dual encoder and layers in which captions read all image tokens, [CLS] included.

    The parameters `fusion` and `heads` (`match`, `words`) stand next to the dual encoder's. The fusion layers have the
    width, heads, MLP and dropout of the text tower and the order of BERT; the head over the vocabulary is tied to the
    word table.

    Attributes:
      dual: both towers and the patch predictor; a BERT-base splits into 6 text and 6 fusion layers.
      fusion_depth: number of fusion layers.

    **Example:**

        model = Albef(DualEncoder(image_shape, text_shape), fusion_depth=6)
        params = model.init(jax.random.key(0))
        image = model.encode_image(params, model.embed_patches(params, images))
        text = model.encode_text(params, tokens)
        fused = model.fuse(params, text.tokens, text.mask, model.image_memory(params, image.tokens))
        match = jax.nn.softmax(model.itm_logits(params, fused.text))[:, 1]
    """

    dual: DualEncoder
    fusion_depth: int = 6

    def __post_init__(self) -> None:
        """Refuse a model without fusion."""
        if self.fusion_depth < 1:
            raise UserError(f"fusion_depth={self.fusion_depth}: give at least 1 layer")

    @property
    def _fusion(self) -> Any:
        dual, text = self.dual, self.dual.text
        return CrossStack(
            self.fusion_depth,
            text.width,
            text.heads,
            text.mlp_dim,
            dual.image.width,
            eps=dual.text_variant.eps or 1e-12,
            act=dual.text_variant.act or dual.act,
            dtype=dual.dtype,
            scan=dual.scan,
            remat=dual.remat,
            layout=dual.layout,
            root="fusion",
        )

    @property
    def _word_head(self) -> WordHead:
        dual = self.dual
        act = dual.text_variant.act or dual.act
        return WordHead(self.vocab_size, dual.text_variant.eps or 1e-12, act, dual.dtype)

    def declared_parts(self, key: Array) -> Params:
        """Return fresh parameters of the fusion layers and the heads."""
        fusion, match, words = jax.random.split(key, 3)
        layers = self._fusion.clone(layout=None)
        width = self.dual.text.width
        states = jax.numpy.zeros((1, 1, width))
        table = jax.numpy.zeros((self.vocab_size, width))
        return {
            "fusion": layers.init(fusion, method="initialise")["params"],
            "heads": {
                "match": MatchHead().init(match, states)["params"],
                "words": self._word_head.init(words, states, table)["params"],
            },
        }

    def image_memory(self, params: Params, tokens: Array) -> Any:
        """Return the keys and values of image tokens (B, S, C) in all fusion layers.

        With microbatches these are the tokens themselves, so that only the keys and values of one part exist at a time.
        """
        if self.dual.microbatches > 1:
            return tokens
        return self._memory(params, tokens)

    def _memory(self, params: Params, tokens: Array) -> Any:
        memory: Memory = self._fusion.apply({"params": params["fusion"]}, tokens, method="memory")
        return memory

    def fuse(
        self, params: Params, states: Array, mask: Array, memory: Any, *, key: Array | None = None
    ) -> FusedFeatures:
        """Let captions (B·G, T, C) read the images of a memory, G consecutive ones the same image."""
        dropout = Dropout.of_rows(key, len(states), self.text_dropout)
        if self.dual.microbatches == 1:
            return self._read(params, states, mask, memory, dropout)
        images = len(memory)
        # One row per image, since the parts of a microbatch are images with all that read them.
        by_image = lambda x: x.reshape(images, -1, *x.shape[1:])
        flat = lambda x: x.reshape(-1, *x.shape[2:])

        def part(tokens: Array, rows: Any) -> FusedFeatures:
            states, mask, dropout = jax.tree.map(flat, rows)
            fused = self._read(params, states, mask, self._memory(params, tokens), dropout)
            return jax.tree.map(lambda x: x.reshape(len(tokens), -1, *x.shape[1:]), fused)

        rows = jax.tree.map(by_image, (states, mask, dropout))
        count, layout = self.dual.microbatches, self.dual.layout
        parts = in_microbatches(part, memory, rows, count=count, layout=layout)
        fused: FusedFeatures = jax.tree.map(flat, parts)
        return fused

    def _read(
        self, params: Params, states: Array, mask: Array, memory: Any, dropout: Dropout | None
    ) -> FusedFeatures:
        variables = {"params": params["fusion"]}
        return FusedFeatures(self._fusion.apply(variables, states, mask, memory, None, dropout))

    def itm_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (R, 2) float32 of fused states (R, T, C); class 1: caption and image belong together."""
        own = self._gathered(params["heads"]["match"], "heads/match")
        apply: Any = MatchHead().apply
        logits: Array = apply({"params": own}, states)
        return logits

    def word_logits(self, params: Params, states: Array) -> Array:
        """Return the logits (..., V) float32 of the words at fused states (..., C)."""
        own = self._gathered(params["heads"]["words"], "heads/words")
        table = self._gathered(params["text"]["word_embed"], "text/word_embed")["embedding"]
        apply: Any = self._word_head.apply
        logits: Array = apply({"params": own}, states, table)
        return logits

    def _gathered(self, params: Params, scope: str) -> Params:
        layout = self.dual.layout
        return params if layout is None else layout.gather(params, scope)
