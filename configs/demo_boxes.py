"""TiMix as published, on the demo's scenes: patches are scored by a predictor that learns from boxes."""

from ml_collections import ConfigDict

from configs.demo import SCENES
from configs.demo import get_config as demo


def get_config() -> ConfigDict:
    """The recipe: that of `configs.demo` with the paper's scores, labels and second view."""
    c = demo()
    # Data: a tenth of the scenes come with boxes.
    c.data.train = (f"emoji:train?{SCENES}&scenes=5000&annotated=0.1",)

    # Model.
    c.model.text.max_tokens = 18
    c.model.tpp_layer = 2  # block whose patches the predictor reads

    # Mixing.
    c.mix.options.timix.partner = "flip"  # image k with image B-1-k
    c.mix.score = "tpp"  # the trained patch predictor
    c.mix.captions = "own"  # each caption stays a positive, by its share of the image
    c.mix.target = "hard"
    c.mix.placement = "extra"  # mixed images are a second view
    c.mix.fraction = 1.0  # share of the batch that is mixed
    c.mix.until = "66%"  # mixing ends after two thirds, as in the paper

    # Patch-text alignment on the annotated scenes.
    c.loss.pta.weight = 1.0
    # Annotated scenes per step: a quarter of the batch, whatever its size.
    c.regions.batch_size = c.train.get_ref("batch_size") // 4
    c.regions.max_regions = 3  # (text, box) pairs per scene, drawn at random each time
    c.regions.max_tokens = 8  # region texts are short

    # Evaluation.
    c.eval.evaluators = ("retrieval", "patch_text", "patch_scores")
    c.eval.options.patch_scores.sources = ("tpp", "single_patch")
    return c
