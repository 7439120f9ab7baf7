"""What the rest of the package knows of a model: protocols, and the named features that its towers return.

Every model follows `ImageTextModel`. What only some models can do is a protocol of its own, which objectives, score
sources and evaluators ask for by `require`: a model without it is refused by name. Room for fusion encoders and
decoders is left the same way: one more protocol beside these.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import jax

from timix_jax.errors import UserError

Array = jax.Array
Params = Any
T = TypeVar("T")


class ImageFeatures(NamedTuple):
    """What an image tower returns for B images.

    Attributes:
      embedding: (B, D) float32, unit norm.
      tokens: (B, T, C) every token after the final norm, those before the patches included.
      patches: (B, N, C) the patch tokens of `tokens`; with patch dropout only the K kept ones.
      blocks: block (0-based) -> (B, T, C) every token after it, for the blocks that were asked for.
    """

    embedding: Array
    tokens: Array
    patches: Array
    blocks: Mapping[int, Array]


class TextFeatures(NamedTuple):
    """What a text tower returns for B captions.

    Attributes:
      embedding: (B, D) float32, unit norm.
      cls: (B, C) the caption's vector, unprojected and unnormalised.
      tokens: (B, T, C) the last hidden state of every token.
      mask: (B, T) bool, False for padding.
    """

    embedding: Array
    cls: Array
    tokens: Array
    mask: Array


@runtime_checkable
class ImageTextModel(Protocol):
    """A model that puts images and captions into one space, as pure functions over a tree of parameters.

    A class that inherits from the protocol gets the defaults of `patch_dropout`, `draw_kept`, `logit_bias`,
    `constrain`, `for_evaluation` and `on_one_device`.
    """

    @property
    def grid(self) -> int:
        """g, patches per side: what mixing takes as one unit, N = g²."""
        ...

    @property
    def embed_dim(self) -> int:
        """D, the width of the shared space."""
        ...

    @property
    def patch_dropout(self) -> float:
        """Share of the patches that training passes leave out; 0 for none."""
        return 0.0

    def init(self, key: Array) -> Params:
        """Return fresh float32 parameters, a nested dict."""
        ...

    def embed_patches(self, params: Params, images: Array) -> Array:
        """Turn images (B, H, H, 3), uint8 or float in -1..1, into patches (B, N, C) that can be mixed."""
        ...

    def draw_kept(self, key: Array, batch: int) -> Array | None:
        """Draw the patches that a training pass keeps, int32 (B, K); None without patch dropout."""
        return None

    def encode_image(
        self,
        params: Params,
        patches: Array,
        *,
        kept: Array | None = None,
        blocks: Sequence[int] = (),
    ) -> ImageFeatures:
        """Run patches (B, N, C), or only those of `kept` (B, K), through the whole image tower."""
        ...

    def encode_text(self, params: Params, tokens: Array) -> TextFeatures:
        """Run captions int32 (B, T) through the text tower."""
        ...

    def temperature(self, params: Params) -> Array:
        """Return τ, a float32 scalar."""
        ...

    def logit_bias(self, params: Params) -> Array | None:
        """Return what is added to similarities over τ (SigLIP), or None."""
        return None

    def constrain(self, params: Params) -> Params:
        """Project updated parameters back into their allowed ranges; called after each update."""
        return params

    def for_evaluation(self) -> Self:
        """Return the same functions without what only training needs, such as microbatches."""
        return self

    def on_one_device(self) -> Self:
        """Return the same functions for parameters that lie whole on one device."""
        return self


@runtime_checkable
class BlockTokens(Protocol):
    """A model whose image tower can stop after a block."""

    @property
    def depth(self) -> int:
        """Number of blocks of the image tower."""
        ...

    def encode_blocks(
        self, params: Params, patches: Array, blocks: Sequence[int]
    ) -> Mapping[int, Array]:
        """Return every token (B, T, C) after each of `blocks` (-1: before the first); later blocks do not run."""
        ...

    def patch_tokens(self, tokens: Array) -> Array:
        """Drop the tokens (B, T, C) that are not patches."""
        ...


@runtime_checkable
class PatchPredicting(BlockTokens, Protocol):
    """A model with the text-aware patch predictor (docs/method.md §1)."""

    @property
    def tpp_layer(self) -> int:
        """Block whose patch tokens the predictor reads, 0-based."""
        ...

    def patch_logp(self, params: Params, site: Array, cls: Array) -> Array:
        """Map patch tokens (B, N, C) and caption vectors (B, Ct) to log-probabilities (B, N, 2)."""
        ...


@runtime_checkable
class PatchProjecting(Protocol):
    """A model that can put single patches into the shared space."""

    def project_patches(self, params: Params, patches: Array) -> Array:
        """Project final patch tokens (B, N, C) to unit norm (B, N, D)."""
        ...


@runtime_checkable
class ClsAttending(BlockTokens, Protocol):
    """A model with a [CLS] token whose attention to the patches can be read."""

    @property
    def attention_input(self) -> int:
        """Block whose tokens `cls_attention` reads; -1 for the input of the first."""
        ...

    def cls_attention(self, params: Params, tokens: Array) -> Array:
        """Return the attention (B, N) of [CLS] to the patches, the mean over heads."""
        ...


ABILITIES: dict[type, str] = {
    ImageTextModel: "the functions of an image-text model",
    BlockTokens: "blocks of an image tower (encode_blocks)",
    PatchPredicting: "a patch predictor (patch_logp)",
    PatchProjecting: "a projection of single patches (project_patches)",
    ClsAttending: "[CLS] attention (cls_attention)",
}


def require(model: Any, ability: type[T], reader: str) -> T:
    """Return the model as one that has the ability.

    Args:
      model: any model.
      ability: a protocol of this module.
      reader: what needs it, as the user knows it, such as `mix.score='tpp'`.

    Raises:
      UserError: the model lacks it.
    """
    if not isinstance(model, ability):
        raise UserError(
            f"{reader} needs {ABILITIES[ability]}, which {type(model).__name__} lacks; choose another"
            " setting, or another config.model.name"
        )
    return model
