"""ALBEF-TiMix on emoji scenes, scaled to two CPU cores; scenes by an unseen vendor as the test.

Prints retrieval, retrieval re-ranked by matching, the accuracy of matching, and accuracy and perplexity of hidden
words.
"""

from ml_collections import ConfigDict

from configs.demo import SCENES
from configs.demo import get_config as demo


def get_config() -> ConfigDict:
    """The recipe: the demo's data, towers and mixer, with two fusion layers and their losses."""
    c = demo()

    # Data: captions name two or three things. What names a single one fits other images of a batch too, which matching
    # would then be told are wrong.
    c.data.train = (f"emoji:train?{SCENES}&scenes=40000&annotated=0.1&several=true",)

    # Model: the demo's towers; captions then read the image in two layers.
    c.model.name = "albef"
    c.model.options.albef.fusion_depth = 2
    c.model.text.dropout = 0.1  # in text and fusion layers

    # Mixed images come in addition to the clean ones, which matching and hidden words need anyway.
    c.mix.placement = "extra"
    c.mix.fraction = 0.25  # share of the batch that is mixed

    # Matching with hard negatives, and hidden words.
    c.loss.itm.weight = 1.0
    c.loss.mlm.weight = 0.5
    c.loss.mlm.rate = 0.25  # captions are short
    c.loss.mlm.most = 0.4  # at most this share of a caption's positions
    c.optim.ema = 0.0  # no teacher: its passes would take a quarter of the time

    # Duration.
    c.train.duration = "600 steps"

    # Evaluation, at the end alone.
    c.eval.sets = tuple(
        f"{name}=emoji:{name}?{SCENES}" for name in ("heldout_vendor", "trained_vendor")
    )
    c.eval.evaluators = ("retrieval", "reranked", "masked_words", "patch_text")
    c.eval.options.reranked.k = 16
    c.eval.every = "100%"
    return c
