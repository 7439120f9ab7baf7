"""The source `emoji:SPLIT?option=value`: emoji scenes, built when first opened."""

from timix_jax.data.emoji.build import BuildOptions, ensure_built
from timix_jax.data.emoji.scenes import Look
from timix_jax.data.emoji.splits import SPLITS
from timix_jax.data.sources.records import RecordSource
from timix_jax.errors import UserError


def open_emoji(
    argument: str = "train",
    *,
    scenes: int | None = None,
    concepts: int = 240,
    heldout: int = 40,
    canvas: int = 64,
    annotated: float = 0.1,
    seed: int = 0,
    min_size: float = 0.34,
    max_size: float = 0.55,
    rotation: float = 30.0,
    on_canvas: float = 1.0,
    heldout_vendor: str = "Joy",
    gallery: int = 0,
    several: bool = False,
    cache: str = "",
) -> RecordSource:
    """Open a split of the emoji scenes, building it on first use (`build.ensure_built`).

    `train`, `trained_vendor` and `heldout_vendor` show and name the training concepts;
    `heldout_concepts` names the held-out ones and shows training concepts as clutter. The vendors
    Goog and Twtr draw all splits except `heldout_vendor`, which Joy draws by default. In the three test
    splits, no other scene shows all concepts of a caption. Every record has two captions, which
    name the same concepts, and the boxes of all drawings; `Region.captions` is (0, 1) for what the
    captions name and () for clutter.

    **Example:**

        open_source("emoji:train?scenes=40000&canvas=64")

    Args:
      argument: the split.
      scenes: number of scenes; by default 40,000 for training, 500 for each vendor's test split and
        200 for the held-out concepts.
      concepts: number of concepts, held-out ones included.
      heldout: number of concepts that training never shows.
      canvas: side of the images in pixels.
      annotated: share of the training scenes whose regions the trainer sees; always all in test
        splits. One build in the cache serves every share.
      seed: seed of everything random.
      min_size: longer side of the smallest drawing, as a fraction of the canvas side.
      max_size: longer side of the largest drawing, likewise.
      rotation: largest rotation in either direction, in degrees.
      on_canvas: smallest share of a drawing that lies on the canvas. Below 1 drawings may stick out, so that they do
        not lie mostly in the middle.
      heldout_vendor: the vendor that training never sees: Goog, Twtr or Joy.
      gallery: number of the set of test scenes; every gallery of a test split has other scenes.
      several: captions of the training split name at least two concepts, as those of the test splits always do: two
        fifths name a single one otherwise, which several other images of a batch show as well.
      cache: folder to build in; by default $TIMIX_CACHE, else ~/.cache/timix_jax.

    Raises:
      UserError: unknown split, an option out of range, or a package that is not installed.
    """
    if argument not in SPLITS:
        raise UserError(f"emoji:{argument}: no such split; valid: {', '.join(SPLITS)}")
    split = SPLITS[argument]
    options = BuildOptions(
        split=argument,
        scenes=split.scenes if scenes is None else scenes,
        concepts=concepts,
        heldout=heldout,
        seed=seed,
        look=Look(canvas, min_size, max_size, rotation, on_canvas),
        heldout_vendor=heldout_vendor,
        gallery=gallery,
        several=several,
    )
    folder = ensure_built(options, cache)
    source = RecordSource(folder, annotated=annotated if argument == "train" else 1.0)
    source.name = f"emoji:{argument}"
    return source
