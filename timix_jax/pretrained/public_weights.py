"""Published weights as parameters of the dual encoder: checked by names and shapes, then loaded leaf by leaf."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from timix_jax.errors import UserError, error_prefix
from timix_jax.parallel.paths import map_with_names, path_names
from timix_jax.pretrained.layouts import UNSTATED, Contents, Shapes, find_layout
from timix_jax.pretrained.leaves import Leaf, Leaves
from timix_jax.pretrained.own_arrays import with_own_arrays
from timix_jax.pretrained.pixels import Pixels, fold
from timix_jax.pretrained.position_embeddings import interpolate_grid
from timix_jax.pretrained.report import Report
from timix_jax.pretrained.settings import check_settings, complete_settings, pixels_of
from timix_jax.pretrained.weight_files import WeightFiles, open_weights

Place = Callable[[str, np.ndarray, Any], Any]

# Our tokenizers append [PAD] and [MASK] to vocabularies without them, such as CLIP's.
_APPENDED_ROWS = 2


@dataclasses.dataclass(frozen=True)
class PublicWeights:
    """Published weights whose layout is known; arrays are read by `load`.

    Attributes:
      title: the layout's name.
      contents: settings and leaves.
      leaves: path of a parameter (`image/pos_embed`) → how to make it.
      known: names in the file that the layout knows, of both towers.

    **Example:**

        weights = read_public("clip-vit-base-patch32")
        weights.settings["model.image.act"]  # "quick_gelu"
        params, report = weights.load(params)
    """

    files: WeightFiles
    title: str
    contents: Contents
    leaves: Leaves
    known: frozenset[str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Field of the configuration → the value that the weights were trained with, where they state it."""
        stated = self.contents.settings
        return {name: value for name, value in stated.items() if value is not UNSTATED}

    @property
    def source(self) -> str:
        """The path and the layout, for messages."""
        return f"{self.files.path} ({self.title})"

    def check(self, abstract_params: Any) -> Report:
        """Compare with a model's parameters, by names and shapes alone.

        Raises:
          UserError: a shape does not fit, or the file has a tower that ours cannot express.
        """
        self._refuse_unknown_names()
        expected = dict(path_names(abstract_params))
        loaded, interpolated, notes = [], [], list(self.contents.notes)
        for name, leaf in self.leaves.items():
            if name not in expected:
                continue
            shape, want = self._shape(name, leaf), tuple(expected[name].shape)
            if name == "image/pos_embed" and shape != want and shape[2:] == want[2:]:
                old, new = (round(s[1] ** 0.5) for s in (shape, want))
                interpolated.append(f"{name}: {old}·{old} → {new}·{new}")
            elif name == "text/word_embed/embedding" and shape[0] != want[0]:
                notes.append(self._vocabulary_note(shape, want))
            elif name == "text/pos_embed" and shape[1] >= want[1] and shape[2:] == want[2:]:
                pass
            elif shape != want:
                raise UserError(
                    f"{self.source}: {', '.join(leaf.sources[:3])} make {name} {shape}, and the model has {want}"
                )
            loaded.append(name)
        fresh = [name for name in expected if name not in self.leaves]
        used = {source for name in loaded for source in self.leaves[name].sources}
        unused = [n for n in self.files.shapes if n not in used and not n.endswith("position_ids")]
        return Report(self.source, loaded, interpolated, fresh, unused, notes)

    def _shape(self, name: str, leaf: Leaf) -> tuple[int, ...]:
        try:
            return leaf.shape(self.files.shapes)
        except KeyError as error:
            raise UserError(f"{self.source}: lacks the array {error.args[0]}") from error
        except (ValueError, IndexError) as error:
            raise UserError(
                f"{self.source}: {', '.join(leaf.sources[:3])} do not have the shapes of {name} ({error})"
            ) from error

    def _vocabulary_note(self, shape: tuple[int, ...], want: tuple[int, ...]) -> str:
        extra = want[0] - shape[0]
        if not 0 < extra <= _APPENDED_ROWS or shape[1:] != want[1:]:
            raise UserError(
                f"{self.source}: has {shape[0]:,} words, and the tokenizer {want[0]:,}: set config.data.tokenizer"
                " to the vocabulary file of these weights"
            )
        return f"{extra} rows of text/word_embed/embedding are fresh: the tokenizer appended these tokens"

    def _refuse_unknown_names(self) -> None:
        odd = [
            name
            for name in self.files.shapes
            if name.startswith(self.contents.scopes)
            and name not in self.known
            and not re.match(self.contents.unread, name)
        ]
        if odd and self.contents.scopes:
            raise UserError(
                f"{self.source}: holds {', '.join(odd[:3])}{' …' if len(odd) > 3 else ''}, parts of a tower that ours"
                " does not have"
            )

    def load(self, params: Any, place: "Place | None" = None) -> tuple[Any, Report]:
        """Return `params` with the parameters that the file has.

        One parameter after the other is read, placed as the one that it replaces is, and that one is deleted, so that
        nothing is held twice.

        Args:
          params: arrays, which are used up; or shapes with shardings, if the file has all parameters.
          place: puts a parameter's value where the given one is; by default as `jax.Array`, split as that one is.

        Raises:
          UserError: as `check`, and for damaged values.
        """
        report = self.check(params)
        place = place or _placed_like
        wanted = {name: like for name, like in path_names(params) if name in set(report.loaded)}
        placed = {}
        # The largest first: while they are read, little else is there.
        for name in sorted(wanted, key=lambda n: -wanted[n].size):
            leaf, like = self.leaves[name], wanted[name]
            with self.files.reading(leaf.sources) as read:
                value = leaf.build(read, leaf.shape(self.files.shapes))
            value = _fitted(name, value, tuple(like.shape))
            if isinstance(like, jax.Array):
                sharding = like.sharding
                like.delete()
                like = jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)
            placed[name] = place(name, value, like)
            del value
        return map_with_names(lambda name, old: placed.get(name, old), params), report


def _fitted(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Fit positions to another grid or length, and append rows to the word table."""
    if value.shape == shape:
        return value
    if name == "image/pos_embed":
        return np.asarray(interpolate_grid(jnp.asarray(value), round(shape[1] ** 0.5)))
    if name == "text/pos_embed":
        return value[:, : shape[1]]
    # Every process draws the same rows.
    rows = np.random.default_rng(0).normal(0, 0.02, (shape[0] - len(value), *shape[1:]))
    return np.concatenate([value, rows.astype(value.dtype)])


def _placed_like(name: str, value: np.ndarray, like: Any) -> jax.Array:
    del name
    value = np.asarray(value, like.dtype)
    if like.sharding is None:
        return jnp.asarray(value)
    return jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index])


def read_public(
    path: epath.PathLike,
    *,
    run: Mapping[str, Any] | None = None,
    part: str = "",
    given: Mapping[str, Any] | None = None,
) -> PublicWeights:
    """Recognise published weights and describe them; only names, shapes and configuration files are read.

    Args:
      path: see `weight_files.open_weights`.
      run: the run's settings, flat, which are compared with those of the weights, and which count where the weights
        state none; None to accept what the weights state.
      part: `image` or `text` for that tower alone, whose projection is used if its width and kind are the run's;
        empty for all that the file has.
      given: without `run`, settings that count where the weights state none; all of these must then be given. None to
        leave them open.

    Raises:
      UserError: an unknown layout, a tower that ours cannot express, no such part, or settings that differ.
    """
    files = open_weights(path)
    with error_prefix(f"{files.path} "):
        layout = find_layout(files.shapes)
        try:
            contents = layout.read(files, Shapes(files.shapes), run or given or {})
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"has names of {layout.TITLE}, but not its shapes or configuration ({error})"
            ) from error
        contents = with_own_arrays(contents, files.shapes)
        parts = (contents.image, contents.text, contents.scalars)
        known = frozenset(s for leaves in parts for leaf in leaves.values() for s in leaf.sources)
        if given is not None:
            contents = complete_settings(contents, layout.TITLE, given)
        contents = check_settings(contents, layout.TITLE, run, part)
        pixels = pixels_of(contents, run or given)
    return PublicWeights(files, layout.TITLE, contents, _named(contents, pixels, part), known)


def _named(contents: Contents, pixels: Pixels, part: str) -> Leaves:
    image = fold(contents.image, pixels) if contents.image else {}
    leaves: Leaves = {}
    if part in ("", "image"):
        leaves |= {f"image/{name}": leaf for name, leaf in image.items()}
    if part in ("", "text"):
        leaves |= {f"text/{name}": leaf for name, leaf in contents.text.items()}
    return leaves | ({} if part else contents.scalars)
