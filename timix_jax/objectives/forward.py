"""The forward passes of one step: each distinct pass runs once, however many objectives read it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from timix_jax import rng
from timix_jax.errors import UserError
from timix_jax.mixing.fraction import take_rows
from timix_jax.models.pixels import normalise_pixels
from timix_jax.models.protocols import (
    BlockTokens,
    ImageFeatures,
    ImageTextModel,
    TextFeatures,
    require,
)
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.views.base import Inputs, View

Array = jax.Array
T = TypeVar("T")


class Forward:
    """An objective's view of one training step over the global batch; passes run on first use.

    Only declared features can be read. The declarations determine which blocks a pass returns and whether it needs a
    gradient, so they must be complete before the first pass runs.

    Attributes:
      model: the model's pure functions.
      params: the student's parameters.
      batch: image uint8 (B, H, W, 3) and tokens int32 (B, T); boxes, box_mask and regions if the data has them.
      step: int32 scalar, traced.
      state: objective name -> its state (`TrainState.objectives`).

    **Example:**

        image = forward.image().embedding                  # student, clean batch
        target = forward.image(teacher=True).embedding     # teacher, no gradient
        text = forward.text("mixed").embedding             # captions of a view
        tokens = forward.block(5)                          # every token after block 5
    """

    def __init__(
        self,
        model: ImageTextModel,
        params: Any,
        batch: Mapping[str, Any],
        *,
        reads: Iterable[Feature],
        views: Iterable[View] = (),
        teacher: Any | None = None,
        step: Array,
        seed_key: Array,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Register features and views; run nothing yet.

        Args:
          model: see the class.
          params: see the class.
          batch: see the class.
          reads: every feature that will be read (`base.prepare_forward` collects them).
          views: the views that the features name, apart from the clean batch.
          teacher: the moving average of the parameters, or None.
          step: see the class.
          seed_key: the run's key; objectives draw from it with `stream`.
          state: see the class.
        """
        self.model, self.params, self.batch, self.step = model, params, batch, step
        self.state = state or {}
        self._teacher, self._seed_key = teacher, seed_key
        self._views: dict[str, View] = {}
        for view in views:
            if self._views.setdefault(view.name, view) != view:
                raise ValueError(f"two different views have the name {view.name!r}")
        self._done: dict[Hashable, Any] = {}
        declared = set(reads)
        self._whole = {self._pass(f) for f in declared if f.tower == "image" and f.block is None}
        self._declared = {self._resolved(feature) for feature in declared}

    def stream(self, name: str) -> Array:
        """Return the key of the named random stream at this step."""
        return rng.stream(self._seed_key, name, self.step)

    def view(self, name: str) -> Inputs:
        """Return the inputs that a view gives to the towers."""
        if name == CLEAN:
            return Inputs(images=self.batch["image"], tokens=self.batch["tokens"])
        if name not in self._views:
            raise ValueError(f"no objective of this step has a view {name!r}")
        return self.once(("view", name), lambda: self._views[name].make(self))

    def shown(self, view: str) -> Hashable:
        """Return a key that is the same for views of the same images, which differ in their captions only."""
        inputs = self.view(view)
        if view == CLEAN:
            return view
        own = inputs.images is not None or inputs.patches is not None
        return view if own else CLEAN if inputs.rows is None else inputs.rows.tobytes()

    def pixels(self, view: str = CLEAN) -> Array:
        """Return the images of a view as float pixels (n, H, W, 3) in -1..1."""
        images = self.view(view).images
        if images is None:
            raise ValueError(f"the view {view!r} has no pixels of its own")
        return normalise_pixels(images)

    def patches(self, view: str = CLEAN, *, teacher: bool = False) -> Array:
        """Return the patches (n, N, C) of a view, before position embeddings."""
        inputs = self.view(view)
        if inputs.images is not None:
            images = inputs.images
            embed = lambda: self.model.embed_patches(self.weights(teacher), images)
            return self.once(("patches", view, teacher), embed)
        if inputs.patches is None:
            clean = self.patches(CLEAN, teacher=teacher)
            return clean if inputs.rows is None else take_rows(clean, inputs.rows)
        if teacher:
            raise UserError(
                f"the view {view!r} consists of the student's patches, which the teacher cannot read; use a mixer of"
                " pixels"
            )
        return inputs.patches

    def image(
        self, view: str = CLEAN, *, teacher: bool = False, all_patches: bool = False
    ) -> ImageFeatures:
        """Return the features of a view's images."""
        feature = self._checked(Feature("image", view, teacher, all_patches=all_patches))
        return self._rows_of(view, feature, self._image(feature))

    def block(self, block: int, view: str = CLEAN, *, teacher: bool = False) -> Array:
        """Return all tokens (n, N+prefix, C) of a view's images after a block."""
        feature = self._checked(Feature("image", view, teacher, block))
        return self._rows_of(view, feature, self._block(feature, block))

    def text(
        self, view: str = CLEAN, *, teacher: bool = False, dropout: bool = True
    ) -> TextFeatures:
        """Return the features of a view's captions."""
        feature = self._checked(Feature("text", view, teacher, dropout=dropout))
        inputs = self.view(view)
        tokens = inputs.tokens
        if tokens is None:
            tokens, clean = self.batch["tokens"], feature._replace(view=CLEAN)
            if inputs.rows is None or {clean, clean._replace(gradient=False)} & self._declared:
                feature = clean
            else:  # nobody reads the other rows
                tokens = take_rows(tokens, inputs.rows)

        def encode() -> TextFeatures:
            # A model without dropout, or one that cannot replace words, need not know the arguments.
            more: dict[str, Any] = {}
            if self._drops(feature):
                more["key"] = self._dropout_key(feature)
            if inputs.words is not None:
                more["words"] = inputs.words
            return self.model.encode_text(self.weights(teacher), tokens, **more)

        features = self.once(("text", feature.view, teacher, feature.dropout), encode)
        return self._rows_of(view, feature, features)

    def _drops(self, feature: Feature) -> bool:
        """Return True if dropout changes a feature of the captions."""
        return feature.dropout and not feature.teacher and self.model.text_dropout > 0

    def _dropout_key(self, feature: Feature) -> Array:
        of_view = "" if feature.view == CLEAN else f"/{feature.view}"
        return self.stream(f"dropout/text{of_view}")

    def embeddings(self, view: str = CLEAN) -> tuple[Array, Array]:
        """Return the student's embeddings (n, D) of a view's images and captions, after any mixing of embeddings."""
        inputs, captions = self.view(view), self.text(view)
        image, text = self.image(view).embedding, captions.embedding
        if inputs.mix_text is not None:
            if captions.projected is None:
                raise UserError(
                    "this mixer mixes projected captions before their norm, which "
                    f"{type(self.model).__name__} does not return (TextFeatures.projected): choose another"
                    " config.mix.mixer"
                )
            text = _unit(inputs.mix_text(captions.projected))
        mix = inputs.mix_embeddings
        return (image, text) if mix is None else mix(image, text)

    def weights(self, teacher: bool = False) -> Any:
        """Return the parameters of the student, or of the teacher as constants, for passes beyond the two towers."""
        if not teacher:
            return self.params
        if self._teacher is None:
            raise UserError(
                "an objective reads the teacher: set optim.ema above 0 (the paper: 0.995)"
            )
        return jax.lax.stop_gradient(self._teacher)

    def once(self, key: Hashable, run: Callable[[], T]) -> T:
        """Return `run()` of the first call with this key: a pass that several objectives share, such as a fusion."""
        if key not in self._done:
            self._done[key] = run()
        return self._done[key]

    def _block(self, feature: Feature, block: int) -> Array:
        tower = require(self.model, BlockTokens, f"block {block} of the image tower")
        whole = self._pass(feature)
        if whole in self._whole:
            return self._image(whole).blocks[block]

        def run() -> Mapping[int, Array]:
            params, patches = self._tower_inputs(whole)
            return tower.encode_blocks(params, patches, self._blocks_of(whole))

        return self.once(("blocks", whole), run)[block]

    def _image(self, feature: Feature) -> ImageFeatures:
        whole = self._pass(feature)

        def run() -> ImageFeatures:
            params, patches = self._tower_inputs(whole)
            kept = self.view(whole.view).kept
            if kept is None and not whole.all_patches:
                clean = whole.view == CLEAN
                name = "patch_dropout" if clean else f"patch_dropout/{whole.view}"
                kept = self.model.draw_kept(self.stream(name), len(patches))
            return self.model.encode_image(
                params, patches, kept=kept, blocks=self._blocks_of(whole)
            )

        return self.once(("image", whole), run)

    def _tower_inputs(self, whole: Feature) -> tuple[Any, Array]:
        """Return parameters and patches, as constants if no reader of the pass asks for a gradient."""
        inputs = self.weights(whole.teacher), self.patches(whole.view, teacher=whole.teacher)
        gradient = any(
            f.gradient for f in self._declared if f.tower == "image" and self._pass(f) == whole
        )
        return inputs if gradient else jax.lax.stop_gradient(inputs)

    def _pass(self, feature: Feature) -> Feature:
        """Return the pass through the image tower that provides the feature."""
        whole = feature.all_patches or feature.teacher or feature.block is not None
        everything = whole or not self.model.patch_dropout
        return Feature("image", feature.view, feature.teacher, all_patches=everything)

    def _resolved(self, feature: Feature) -> Feature:
        """Name the pass that provides a feature: the clean one for a view without images of its own, if that runs."""
        if feature.tower == "text":
            return feature._replace(dropout=self._drops(feature))
        view = self._views.get(feature.view)
        clean = feature._replace(view=CLEAN)
        if view is not None and not view.has_own_images:
            return clean if self._pass(clean) in self._whole else feature
        return feature

    def _rows_of(self, view: str, feature: Feature, values: T) -> T:
        """Select the view's rows from the outputs of another view's pass."""
        rows = None if feature.view == view else self.view(view).rows
        return values if rows is None else jax.tree.map(lambda x: take_rows(x, rows), values)

    def _checked(self, feature: Feature) -> Feature:
        """Resolve a feature, and refuse one that was not declared (with or without a gradient)."""
        found = self._resolved(feature)
        if not {found, found._replace(gradient=False)} & self._declared:
            raise ValueError(f"{feature} was not declared by `reads`; add it there")
        return found

    def _blocks_of(self, whole: Feature) -> tuple[int, ...]:
        blocks = {
            f.block
            for f in self._declared
            if f.tower == "image" and f.block is not None and self._pass(f) == whole
        }
        return tuple(sorted(blocks))


def _unit(x: Array) -> Array:
    """Return x (n, D) with unit norm, as the models normalise it: in float32 or wider, finite for zeros."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
