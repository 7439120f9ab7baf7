"""ALBEF-TiMix on emoji scenes, scaled to two CPU cores; scenes by an unseen vendor as the test.

Prints retrieval, retrieval re-ranked by matching, the accuracy of matching, and accuracy and perplexity of hidden
words.
"""

from ml_collections import ConfigDict

from configs.small_scenes import get_config as small_scenes

# Fewer concepts than in the demo: 15 minutes must teach the words from scratch before matching can use them.
SCENES = (
    "concepts=60&heldout=12&canvas=64&min_size=0.38&max_size=0.54&rotation=20&on_canvas=0.5&seed=0"
)


def get_config() -> ConfigDict:
    """The recipe: the towers of `configs.small_scenes`, with two fusion layers and their losses."""
    c = small_scenes()

    # Data: 40,000 scenes whose captions name two or three things. What names a single one fits other images of a batch
    # too, which matching would then be told are wrong.
    c.data.train = (f"emoji:train?{SCENES}&scenes=40000&annotated=0&several=true",)
    c.data.processes = -1  # worker processes: -1 = one per core, at most 16; 0 = threads

    # Model: captions read the image in two layers.
    c.model.name = "albef"
    c.model.options.albef.fusion_depth = 2
    c.model.image.patch_dropout = 0.0  # the things that a caption names must be seen
    c.model.text.max_tokens = 20
    c.model.text.dropout = 0.1  # in text and fusion layers

    # Mixed images come in addition to the clean ones, which matching and hidden words need anyway.
    c.mix.mixer = "timix"
    c.mix.captions = "own"
    c.mix.placement = "extra"
    c.mix.fraction = 0.25  # share of the batch that is mixed

    # Matching, and hidden words. From scratch, negatives as hard as ALBEF's teach nothing: they become so.
    c.loss.itm.weight = 2.0
    c.loss.itm.hardness = 1.0
    c.loss.itm.hardness_steps = "60%"
    c.loss.mlm.weight = 1.0
    c.loss.mlm.rate = 0.25  # captions are short
    c.loss.mlm.most = 0.4  # at most this share of a caption's positions
    c.optim.ema = 0.0  # no teacher: its passes would take a quarter of the time

    # Duration.
    c.train.duration = "1200 steps"

    # Evaluation, at the end alone.
    c.eval.sets = tuple(
        f"{name}=emoji:{name}?{SCENES}" for name in ("heldout_vendor", "trained_vendor")
    )
    c.eval.evaluators = ("retrieval", "reranked", "masked_words")
    c.eval.options.reranked.k = 16
    c.checkpoint.every = "25%"
    c.pictures.examples = 6  # rows of the mixing sheet
    return c
