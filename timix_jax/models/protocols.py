"""Protocols: all that other packages know about a model, and the named features that its towers return.

Every model follows `ImageTextModel`. An ability that only some models have is a protocol of its own, which objectives,
score sources and evaluators ask for through `require`; a model that lacks it is refused by name. A fusion encoder or a
decoder is one more such protocol.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import jax

from timix_jax.errors import UserError
from timix_jax.parallel.axes import Axes

Array = jax.Array
Params = Any
T = TypeVar("T")


class ImageFeatures(NamedTuple):
    """Output of an image tower for B images.

    Attributes:
      embedding: (B, D) float32, unit norm.
      tokens: (B, T, C) final tokens, including those that precede the patches, such as [CLS].
      patches: (B, N, C) the patches among `tokens`; with patch dropout only the K kept ones.
      blocks: block (0-based) → (B, T, C) all tokens after it, for each requested block.
    """

    embedding: Array
    tokens: Array
    patches: Array
    blocks: Mapping[int, Array]


class TextFeatures(NamedTuple):
    """Output of a text tower for B captions.

    Attributes:
      embedding: (B, D) float32, unit norm.
      cls: (B, C) one vector per caption, before projection and normalisation.
      tokens: (B, T, C) last hidden states.
      mask: (B, T) bool, False for padding.
      projected: (B, D) what `embedding` is before normalisation; None if the model does not say.
    """

    embedding: Array
    cls: Array
    tokens: Array
    mask: Array
    projected: Array | None = None


class ReplacedWords(NamedTuple):
    """What a text tower reads in place of the embeddings of some words.

    Attributes:
      at: (B, T) bool, True for the words that are replaced.
      embeddings: (B, T, C) what is read there, before the position is added; elsewhere it means nothing.
    """

    at: Array
    embeddings: Array


@runtime_checkable
class ImageTextModel(Protocol):
    """A model that embeds images and captions in one space: pure functions over a tree of parameters.

    A class that inherits from the protocol gets defaults for `pad_id`, `patch_dropout`, `text_dropout`,
    `parameter_axes`, `draw_kept`, `logit_bias`, `constrain`, `for_evaluation` and `on_one_device`. A dataclass field
    that stands for one of the properties needs a default value: without one, the inherited property would be taken for
    it.
    """

    @property
    def grid(self) -> int:
        """g, patches per side; mixing exchanges whole patches, of which an image has N = g²."""
        ...

    @property
    def embed_dim(self) -> int:
        """D, the width of the shared space."""
        ...

    @property
    def pad_id(self) -> int:
        """Token that pads captions."""
        return 0

    @property
    def patch_dropout(self) -> float:
        """Share of the patches that training passes leave out; 0 for none."""
        return 0.0

    @property
    def text_dropout(self) -> float:
        """Rate of dropout in training passes of captions; above 0, `encode_text` takes an argument `key`."""
        return 0.0

    def init(self, key: Array) -> Params:
        """Return fresh float32 parameters, a nested dict."""
        ...

    def parameter_axes(self) -> Any:
        """Return the `Axes` of each parameter, in a tree with the structure of the parameters.

        By default nothing is split over `tensor`, Muon takes no parameter, and those with two dimensions or more decay.
        Declare axes where a parameter is made, with `models.axes.declare`.
        """
        return jax.tree.map(lambda _: Axes(), jax.eval_shape(self.init, jax.random.key(0)))

    def embed_patches(self, params: Params, images: Array) -> Array:
        """Turn images (B, H, H, 3), uint8 or float in -1..1, into patches (B, N, C), row-major.

        A patch depends on its own pixels only, so that exchanging patches exchanges content.
        """
        ...

    def draw_kept(self, key: Array, batch: int) -> Array | None:
        """Draw the patches that a training pass keeps: int32 (B, K), or None without patch dropout."""
        return None

    def encode_image(
        self,
        params: Params,
        patches: Array,
        *,
        kept: Array | None = None,
        blocks: Sequence[int] = (),
    ) -> ImageFeatures:
        """Run patches (B, N, C) through the whole image tower.

        Args:
          kept: int32 (B, K) the patches that the tower reads, each at its own position; None for all of them. With
            `kept`, patches may be (B, M·N, C), those of M images one after another: number p is at position p mod N.
          blocks: blocks whose tokens to return as well; empty for a model without `BlockTokens`.

        Raises:
          UserError: the tower needs whole images, and a mixer or patch dropout gives `kept`.
        """
        ...

    def encode_text(self, params: Params, tokens: Array) -> TextFeatures:
        """Run captions int32 (B, T) through the text tower."""
        ...

    def temperature(self, params: Params) -> Array:
        """Return τ, a float32 scalar."""
        ...

    def logit_bias(self, params: Params) -> Array | None:
        """Return the learned bias of the logits, a float32 scalar (SigLIP); None for a model without one."""
        return None

    def constrain(self, params: Params) -> Params:
        """Project parameters back into their allowed ranges; called after each update."""
        return params

    def for_evaluation(self) -> Self:
        """Return the same functions without what only training needs, such as microbatches."""
        return self

    def on_one_device(self) -> Self:
        """Return the same functions for parameters that are whole on one device."""
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
        """Return all tokens (B, T, C) after each of `blocks` (-1: before the first); later blocks do not run."""
        ...

    def patch_tokens(self, tokens: Array) -> Array:
        """Drop the tokens (B, T, C) that are not patches."""
        ...


@runtime_checkable
class PatchPredicting(BlockTokens, Protocol):
    """A model with the text-aware patch predictor (docs/method.md §1)."""

    @property
    def tpp_layer(self) -> int:
        """0-based block whose patch tokens the predictor reads."""
        ...

    def patch_logp(self, params: Params, site: Array, cls: Array) -> Array:
        """Map patch tokens (B, N, C) and caption vectors (B, Ct) to log-probabilities (B, N, 2)."""
        ...


@runtime_checkable
class PatchProjecting(Protocol):
    """A model that can embed single patches in the shared space."""

    def project_patches(self, params: Params, patches: Array) -> Array:
        """Project final patch tokens (B, N, C) into the shared space, (B, N, D) of unit norm."""
        ...


@runtime_checkable
class SinglePatchEncoding(Protocol):
    """A model whose image tower accepts an image of which a single patch is left."""

    def encode_single_patches(self, params: Params, patches: Array) -> Array:
        """Encode each of the patches (B, N, C), at its own position, as an image of its own: (B, N, D), unit norm.

        The result says what a patch shows; the patch tokens of a whole pass say what the image shows.
        """
        ...


@runtime_checkable
class WordReplacing(Protocol):
    """A model whose text tower can read patches in place of words (cross-modal CutMix, docs/method.md §5)."""

    def patches_to_words(self, params: Params, patches: Array) -> Array:
        """Project patches (..., C) of the stem to embeddings of words (..., Ct)."""
        ...

    def encode_text(
        self,
        params: Params,
        tokens: Array,
        *,
        key: Array | None = None,
        words: ReplacedWords | None = None,
    ) -> TextFeatures:
        """Run captions int32 (B, T), of which some words are replaced, through the text tower."""
        ...


@runtime_checkable
class ClsAttending(BlockTokens, Protocol):
    """A model whose [CLS] token attends to the patches."""

    @property
    def attention_input(self) -> int:
        """Block whose tokens `cls_attention` reads; -1 for the input of the first block."""
        ...

    def cls_attention(self, params: Params, tokens: Array) -> Array:
        """Return the attention (B, N) of [CLS] to the patches, averaged over heads."""
        ...


ABILITIES: dict[type, str] = {
    ImageTextModel: "an image-text model",
    BlockTokens: "an image tower with blocks (encode_blocks)",
    PatchPredicting: "a patch predictor (patch_logp)",
    PatchProjecting: "a projection of single patches (project_patches)",
    SinglePatchEncoding: "an image tower that encodes single patches (encode_single_patches)",
    WordReplacing: "a text tower that reads patches in place of words (patches_to_words)",
    ClsAttending: "[CLS] attention (cls_attention)",
}


def require(model: Any, ability: type[T], reader: str) -> T:
    """Return the model, known to have an ability.

    Args:
      model: any model.
      ability: a protocol of this module.
      reader: the setting that needs it, as the user wrote it, such as `mix.score='tpp'`.

    Raises:
      UserError: the model lacks it.
    """
    if not isinstance(model, ability):
        raise UserError(
            f"{reader} needs {ABILITIES[ability]}, which {type(model).__name__} lacks: change it, or choose another"
            " config.model.name"
        )
    return model
