"""How well each source of patch scores finds what a text names, and how much of that reads the text."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from timix_jax.data.loading.annotated_texts import TextKind, annotated_text_batches
from timix_jax.errors import UserError
from timix_jax.evaluators.base import Evaluator
from timix_jax.evaluators.localisation import pointing, roc_auc
from timix_jax.evaluators.placement import divisible, own_share
from timix_jax.evaluators.region_check import every_region_covers_its_image, require_regions
from timix_jax.evaluators.sweep import Arrays, Compute, jitted, sweep
from timix_jax.objectives.base import prepare_forward
from timix_jax.objectives.features import CLEAN
from timix_jax.objectives.patch_labels import patch_labels
from timix_jax.objectives.score_sources import SCORES, ScoreSource, build_score_source
from timix_jax.objectives.score_sources.posterior import CAPTIONS
from timix_jax.objectives.score_sources.reader import ScoreReader

if TYPE_CHECKING:
    from timix_jax.data.sources import Source

KINDS: tuple[TextKind, ...] = get_args(TextKind)
_WITHOUT_MODEL = ("random", "oracle", "clutter", "centre")
TWIN = "shuffled:"


@dataclasses.dataclass(frozen=True)
class PatchScoresEvaluator(Evaluator):
    """Every score source on whole captions and on region phrases, beside controls that do not read the text.

    Three figures per source: the AUC of patches that show what the text names, the pointing game, and *named against
    clutter*, the AUC among the patches that show any annotated thing, which a prior for the middle of the image or
    for things as such does not help with. Each is repeated with another image's text; a source that reads the text
    does worse there.

    Attributes:
      sources: names as for `mix.score`; empty for the one that mixing uses and all that the model supports.
      max_boxes: boxes per image.

    Raises:
      UserError: the source has no boxes, or a name is unknown.
    """

    sources: tuple[str, ...] = ()
    max_boxes: int = 16

    @classmethod
    def applies_to(cls, source: Source) -> bool:
        """Return True if the source has boxes."""
        return len(source.annotated) > 0

    def __post_init__(self) -> None:
        require_regions(self.inputs.source, "patch_scores")
        if self.max_boxes < 1:
            raise UserError(f"max_boxes={self.max_boxes}: give at least 1")
        _ = self._built

    def check(self) -> None:
        """Refuse a set in which no box is smaller than its image."""
        if every_region_covers_its_image(self.inputs.source, self.inputs.model.grid):
            raise self._nothing_to_measure()

    def _nothing_to_measure(self) -> UserError:
        return UserError(
            f"Evaluation set {self.inputs.source.name!r} has no text whose boxes leave a patch free: "
            "patch_scores has nothing to measure, so leave the evaluator out."
        )

    @functools.cached_property
    def _built(self) -> dict[str, ScoreSource]:
        """Title → source, in the order of the report."""
        model = self.inputs.model
        names = list(self.sources)
        if not names:
            names = [self.inputs.score] if self.inputs.score not in ("", *_WITHOUT_MODEL) else []
            names += [n for n in SCORES if n not in (*names, *_WITHOUT_MODEL) and self._fits(n)]
        # An evaluation has one set of weights.
        built = [build_score_source(name.replace("ema:", ""), model) for name in (*names, "centre")]
        return {source.title: source for source in built}

    def _fits(self, name: str) -> bool:
        try:
            build_score_source(name, self.inputs.model)
        except UserError:
            return False
        return True

    @functools.cached_property
    def _embed(self) -> Compute:
        model = self.inputs.model
        return jitted(
            lambda params, batch: {
                "embedding": model.encode_text(params["weights"], batch["tokens"]).embedding
            },
            self.inputs.mesh,
        )

    @functools.cached_property
    def _score(self) -> Compute:
        model, sources = self.inputs.model, tuple(self._built.values())

        def score(params: Any, batch: Arrays) -> Arrays:
            def with_texts(name: str, sources: Sequence[ScoreSource]) -> jax.Array:
                forward = prepare_forward(
                    model,
                    [ScoreReader(tuple(sources))],
                    params["weights"],
                    {
                        "image": batch["image"],
                        "tokens": batch[name],
                        "caption_mean": params["caption_mean"],
                        "caption_sample": params["caption_sample"],
                    },
                    step=jnp.zeros((), jnp.int32),
                    seed_key=jax.random.key(0),
                )
                return jnp.stack([source(forward, CLEAN) for source in sources], axis=1)

            labels = patch_labels(batch["boxes"], model.grid)  # (B, R, N)
            found = {
                "scores": with_texts("tokens", sources),
                "named": (labels & batch["named"][..., None]).any(axis=1),
                "shown": (labels & batch["shown"][..., None]).any(axis=1),
            }
            readers = [source for source in sources if source.reads_text]
            if readers:
                found["twins"] = with_texts("other_tokens", readers)
            return found

        return jitted(score, self.inputs.mesh)

    def run(self, params: Any) -> dict[str, float]:
        """Measure every source on both kinds of text, as means over texts.

        Texts that name every patch or none are left out, as no score can be wrong there; named against clutter leaves
        out images without clutter.

        Returns:
          `KIND/SOURCE/auc`, `.../pointing` and `.../named`, with KIND "captions" or "phrases", for each source, its
          twin `shuffled:SOURCE`, and "centre"; `KIND/pointing_chance`, the mean share of positive patches.

        Raises:
          UserError: no text is left.
        """
        found: dict[str, float] = {}
        for kind in KINDS:
            found |= {f"{kind}/{key}": value for key, value in self._run(params, kind).items()}
        if not found:
            raise self._nothing_to_measure()
        self._warn(found)
        return found

    def _run(self, params: Any, kind: TextKind) -> dict[str, float]:
        values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        weights = {"weights": params, **self._captions(params, kind)}
        readers = [title for title, source in self._built.items() if source.reads_text]
        for scored in self._sweep(self._score, weights, kind):
            named, shown = scored["named"], scored["shown"]
            used = scored["valid"] & named.any(axis=1) & ~named.all(axis=1)
            chance = named[used].mean(axis=1)
            values["pointing_chance"].append(_with_index(scored, used, chance))
            told = used & (shown & ~named).any(axis=1)
            columns = [(title, scored["scores"][:, n]) for n, title in enumerate(self._built)]
            columns += [(TWIN + title, scored["twins"][:, n]) for n, title in enumerate(readers)]
            for title, column in columns:
                scores = column.astype(np.float32)
                for name, rows, value in (
                    ("auc", used, roc_auc(scores[used], named[used])),
                    ("pointing", used, pointing(scores[used], named[used])),
                    ("named", told, roc_auc(scores[told], named[told], shown[told])),
                ):
                    values[f"{title}/{name}"].append(_with_index(scored, rows, value))
        means = {name: _ordered_mean(np.concatenate(rows)) for name, rows in values.items()}
        return {name: mean for name, mean in means.items() if mean is not None}

    def _captions(self, params: Any, kind: TextKind) -> dict[str, np.ndarray]:
        """Return the mean embedding (D,) of all texts, and the embeddings of the first ones (M, D)."""
        rows = [
            (scored["index"][scored["valid"]], scored["embedding"][scored["valid"]])
            for scored in self._sweep(self._embed, {"weights": params}, kind)
        ]
        index, embedding = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        if not len(index):
            index, embedding = np.zeros(1), np.zeros((1, embedding.shape[1]), np.float32)
        ordered = embedding[np.lexsort((*embedding.T[:1], index))]
        return {
            "caption_mean": ordered.astype(np.float64).mean(axis=0).astype(np.float32),
            "caption_sample": ordered[:CAPTIONS],
        }

    def _sweep(self, compute: Compute, params: Any, kind: TextKind) -> Iterator[Any]:
        mesh = self.inputs.mesh
        share = own_share(mesh)
        batches = annotated_text_batches(
            self.inputs.source,
            self.inputs.tokenizer,
            kind=kind,
            image_size=self.inputs.image_size,
            max_tokens=self.inputs.max_tokens,
            max_boxes=self.max_boxes,
            batch_size=divisible(self.inputs.batch_size, mesh),
            share=share,
        )
        return sweep(compute, params, batches, share, mesh)

    def _warn(self, found: Mapping[str, float]) -> None:
        for title in self._built:
            own, twin = (found.get(f"captions/{t}/named") for t in (title, TWIN + title))
            if own is not None and twin is not None and own <= twin:
                logging.warning(
                    "%s: the scores of %r find what the caption names no better than with another image's caption "
                    "(%.3f, %.3f among patches that show something): mixing by them is not text-aware",
                    *(self.inputs.source.name, title, own, twin),
                )

    def text(self, metrics: Mapping[str, float]) -> str:
        """Return a table with one line per source; twins in brackets."""
        lines = ["patch scores: AUC, pointing game, named against clutter (with another caption)"]
        for kind in KINDS:
            for title in self._built:
                if f"{kind}/{title}/auc" not in metrics:
                    continue
                cells = []
                for name in ("auc", "pointing", "named"):
                    value = metrics.get(f"{kind}/{title}/{name}")
                    twin = metrics.get(f"{kind}/{TWIN}{title}/{name}")
                    shown = "  –  " if value is None else f"{value:.3f}"
                    cells.append(shown + ("" if twin is None else f" ({twin:.3f})"))
                lines.append(f"  {kind:<8} {title:<14} " + "  ".join(f"{c:<13}" for c in cells))
        return "\n".join(line.rstrip() for line in lines)


def _with_index(
    scored: Mapping[str, np.ndarray], rows: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Return (k, 2): of each chosen row the index of its example, and its value."""
    return np.stack([scored["index"][rows].astype(np.float64), value], axis=1)


def _ordered_mean(rows: np.ndarray) -> float | None:
    """Return the mean of the values, summed in one order for any number of devices; None for no rows."""
    if not len(rows):
        return None
    return float(np.mean(rows[np.lexsort((rows[:, 1], rows[:, 0])), 1]))
