"""A loaded model: images and texts in, NumPy arrays out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from timix_jax.data.images.preprocess import Preprocess
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.decoding import encode_prefixes
from timix_jax.errors import UserError
from timix_jax.inference.captions import Caption, Captioner
from timix_jax.inference.classes import embedded_classes, softmax
from timix_jax.inference.heatmaps import HeatMaps, default_source, reference_texts, resized
from timix_jax.inference.images import OWN, ImageLike, image_list
from timix_jax.inference.pixel_batches import pixel_batches
from timix_jax.inference.towers import Towers
from timix_jax.models.protocols import ImageTextModel


class LoadedModel:
    """A model with its weights on all devices of this process, as `timix_jax.load` returns it.

    Embeddings of images and of texts lie in one space and have length 1: their products are cosines. Results come in
    the order of the inputs, whatever the batching. Inputs are processed in batches of two fixed shapes, so that each
    tower is compiled at most twice.

    Args:
      model: its pure functions, for parameters that are whole on each device.
      params: its parameters, replicated over `mesh`.
      mesh: devices of this process.
      tokenizer: the one that the model was trained with; None without a text tower.
      image_size: side of the square images in pixels.
      max_tokens: tokens per text; longer texts are cut.
      batch_size: images or texts per batch.
      predictor_trained: True if the patch predictor was trained, so that heat maps may use it.
      origin: where the weights come from, such as the folder of a checkpoint.
      preprocess: how an image becomes a square; by default as in training.
      towers: those that the weights have.
      settings: the fields `model.…` by which the model was built.

    **Example:**

        model = timix_jax.load("runs/demo")
        images = model.encode_image(["one.jpg", "two.png"])  # float32 (2, D)
        texts = model.encode_text(["a lemon", "two skis"])  # float32 (2, D)
        images @ texts.T == model.similarity(["one.jpg", "two.png"], ["a lemon", "two skis"])
    """

    def __init__(
        self,
        model: ImageTextModel,
        params: Any,
        mesh: Mesh,
        tokenizer: Tokenizer | None,
        *,
        image_size: int,
        max_tokens: int,
        batch_size: int = 64,
        predictor_trained: bool = False,
        origin: str = "",
        preprocess: Preprocess = OWN,
        towers: Sequence[str] = ("image", "text"),
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.model, self.params, self._mesh = model, params, mesh
        self._tokenizer, self.origin = tokenizer, origin
        self.image_size, self.max_tokens = image_size, max_tokens
        self.preprocess, self.settings = preprocess, settings
        self._has = tuple(towers)
        self.towers = Towers(model, params, mesh, batch_size)
        self.predictor_trained = predictor_trained
        self._heat_maps = functools.cache(functools.partial(HeatMaps, model, params, mesh))

    @property
    def embed_dim(self) -> int:
        """D, the width of the embeddings."""
        return self.model.embed_dim

    @property
    def grid(self) -> int:
        """g, patches per side."""
        return self.model.grid

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a UserError without a text tower."""
        self.require_tower("text")
        assert self._tokenizer is not None
        return self._tokenizer

    def require_tower(self, tower: str) -> None:
        """Raise a UserError unless the weights have this tower, `image` or `text`."""
        if tower not in self._has:
            raise UserError(f"{self.origin} holds no {tower} tower")

    @functools.cached_property
    def temperature(self) -> float:
        """τ, by which cosines are divided to give logits."""
        return float(jax.jit(self.model.temperature)(self.params))

    def encode_image(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Embed images.

        Args:
          images: paths (also gs://), bytes of image files, Pillow images or uint8 (H, W, 3) arrays, in any mixture;
            one of them is a list of one. Each is resized as in training: whole to a square by this project, or as
            published weights state.

        Returns:
          float32 (N, D), rows of length 1, in the order of the images.

        Raises:
          UserError: an image cannot be read; the message names it.
        """
        self.require_tower("image")
        listed = image_list(images)
        return self._joined(self.towers.images(self._pixel_batches(listed)))

    def encode_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (M, D), rows of length 1, in their order; one text is a list of one."""
        rows, size = self.tokenize(texts), self.towers.batch_size
        batches = (rows[start : start + size] for start in range(0, len(rows), size))
        return self._joined(self.towers.texts(batches))

    def tokenize(self, texts: str | Sequence[str]) -> np.ndarray:
        """Return the token ids of texts, int32 (M, T).

        Raises:
          UserError: something else than text is among them.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        wrong = next((text for text in listed if not isinstance(text, str)), None)
        if wrong is not None:
            raise UserError(f"{wrong!r} is not a text: give strings")
        return self.tokenizer.encode(listed, self.max_tokens)

    def similarity(
        self,
        images: ImageLike | Iterable[ImageLike],
        texts: str | Sequence[str] | np.ndarray,
    ) -> np.ndarray:
        """Return the cosine of each image with each text, float32 (N, M).

        Args:
          images: as for `encode_image`, or what it returned.
          texts: as for `encode_text`, or what it returned.
        """
        given: tuple[Any, Any] = images, texts
        rows = given[0] if _is_embedded(images) else self.encode_image(given[0])
        columns = given[1] if _is_embedded(texts) else self.encode_text(given[1])
        return rows @ columns.T

    def classify(
        self,
        images: ImageLike | Iterable[ImageLike],
        class_names: Sequence[str],
        templates: Sequence[str] = ("a photo of a {}.",),
    ) -> np.ndarray:
        """Return the probability of each class for each image, float32 (N, C), rows adding to 1.

        The embedding of a class is the mean over its prompts, normalised, as in the evaluator `classification`; the
        probabilities are the softmax of the cosines over the model's temperature.

        Args:
          images: as for `similarity`.
          class_names: C names, in which `_` is a space.
          templates: prompts with `{}` in place of the name.

        Raises:
          UserError: no class, or a template without `{}`.
        """
        classes = embedded_classes(self.encode_text, class_names, templates)
        return softmax(self.similarity(images, classes) / self.temperature)

    def heatmap(
        self,
        image: ImageLike,
        text: str,
        *,
        size: tuple[int, int] | None = None,
        source: str = "",
    ) -> np.ndarray:
        """Return how well each patch of an image fits a text.

        Args:
          image: as for `encode_image`.
          text: what to look for.
          size: (height, width) to interpolate the scores to, such as the image's; None for the patches themselves.
          source: a score source of `mix.score`; by default the first that the model has: `single_patch`, `tpp` if
            it was trained, `similarity`.

        Returns:
          float32 (g, g) or `size`: z-scores over the patches, higher where the image fits the text better. They rank
          the patches of one image and say nothing about how well the whole image fits.
        """
        scores = self.heatmaps([image], [text], source=source)[0]
        return scores if size is None else resized(scores, size)

    def heatmaps(
        self, images: Sequence[ImageLike], texts: Sequence[str], *, source: str = ""
    ) -> np.ndarray:
        """Return `heatmap` of pairs of an image and a text, in batches: float32 (N, g, g)."""
        self.require_tower("image")
        source = source or default_source(self.model, predictor_trained=self.predictor_trained)
        if "tpp" in source and not self.predictor_trained:
            raise UserError(
                f"source={source!r}: the patch predictor of {self.origin} was not trained (loss.pta.weight=0); use"
                " 'single_patch'"
            )
        maps, tokens = self._heat_maps(source), self.tokenize(texts)
        listed = image_list(images)
        if len(listed) != len(tokens):
            raise UserError(f"{len(listed)} images and {len(tokens)} texts: give pairs")
        found, start = [np.zeros((0, self.grid, self.grid), np.float32)], 0
        for pixels in self._pixel_batches(listed):
            rows = self.towers.placed(tokens[start : start + len(pixels)])
            scores = maps(self.towers.placed(pixels), rows, self._caption_mean)
            found.append(scores[: len(pixels)])
            start += len(pixels)
        return np.concatenate(found)

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        prefix: str | Sequence[str] = "",
        **options: Any,
    ) -> list[str]:
        """Write a caption for each image: the best of `captions`, which has the arguments."""
        return [found[0].text for found in self.captions(images, prefix, **options)]

    def captions(
        self,
        images: ImageLike | Iterable[ImageLike],
        prefix: str | Sequence[str] = "",
        *,
        num: int = 1,
        beams: int = 3,
        min_tokens: int = 1,
        max_tokens: int = 0,
        length_penalty: str = "gnmt",
        length_alpha: float = 0.6,
    ) -> list[list[Caption]]:
        """Write several captions for each image, best first; fewer if the search finds no more.

        Args:
          images: as for `encode_image`.
          prefix: first words that the captions continue, one text for all images or one per image.
          num: captions per image, at most `beams`.
          beams: hypotheses of the search; 1 for greedy decoding.
          min_tokens, max_tokens: length of the continuation in tokens, the end included; 0 for the longest possible.
          length_penalty, length_alpha: what log-probabilities are divided by: `none`, `power` (lengthᵅ) or `gnmt`
            (((5 + length)/6)ᵅ).

        Raises:
          UserError: the model has no decoder, an image cannot be read, or a value is out of range.
        """
        listed = image_list(images)
        texts = [prefix] * len(listed) if isinstance(prefix, str) else list(prefix)
        if len(texts) != len(listed):
            raise UserError(f"{len(listed)} images and {len(texts)} prefixes: give one per image")
        write = self._captioner
        penalty = length_penalty, length_alpha
        search = write.search(num, beams, (min_tokens, max_tokens), penalty)
        rows = encode_prefixes(self.tokenizer, texts, self.max_tokens)
        found: list[list[Caption]] = []
        for pixels in self._pixel_batches(listed):
            own = rows[len(found) : len(found) + len(pixels)]
            found += write(self.towers.placed(pixels), self.towers.placed(own), search, own)
        return [several[:num] for several in found]

    @functools.cached_property
    def _captioner(self) -> Captioner:
        return Captioner(self.model, self.params, self._mesh, self.tokenizer)

    @functools.cached_property
    def _caption_mean(self) -> np.ndarray:
        return self.encode_text(reference_texts()).mean(axis=0)

    def _pixel_batches(self, images: Sequence[ImageLike]) -> Iterator[np.ndarray]:
        return pixel_batches(images, self.towers.batch_size, self.image_size, self.preprocess)

    def _joined(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *batches])


def _is_embedded(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype.kind == "f"
