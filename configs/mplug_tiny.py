"""mPLUG-TiMix on emoji scenes, scaled to two CPU cores; scenes by an unseen vendor as the test.

Prints what `albef_tiny.py` does, perplexity and accuracy of the words after a prefix, and caption metrics; the folder
`pictures` has the captions of ten test images of each set.
"""

from ml_collections import ConfigDict

from configs.albef_tiny import get_config as albef


def get_config() -> ConfigDict:
    """The recipe: that of `configs.albef_tiny` with mPLUG's layers and PrefixLM."""
    c = albef()

    # Model: three fusion layers, of which layer 2 is connected, and two decoder layers.
    c.model.name = "mplug"
    c.model.options.mplug.fusion_depth = 3
    c.model.options.mplug.stride = 2
    c.model.options.mplug.decoder_depth = 2

    # Prefix language modelling: half of the captions are told from the first word on, as they are evaluated.
    c.loss.plm.weight = 0.5
    c.loss.plm.empty_prefix = 0.5

    # Duration. Mixing goes on to the end: a second program, without it, would take minutes to compile.
    c.mix.until = "100%"
    c.train.duration = "600 steps"

    # Evaluation.
    c.eval.evaluators = (*c.eval.evaluators, "prefix_words", "captions")
    c.eval.options.captions.beams = 3
    c.eval.options.captions.max_tokens = 16
    return c
