"""mPLUG-TiMix at the paper's scale: ViT-B/16, 12 text, 6 fusion and 12 decoder layers, 256 px, batch 1,024, 30 epochs.

python -m timix_jax.main --config=configs/mplug_vitb16.py --config.data.tokenizer=vocab.txt \
    --config.data.train="('records:/data/coco', 'records:/data/cc3m')" \
    --config.eval.sets="('coco_val=records:/data/coco_val',)"

ALBEF-TiMix's losses (configs/albef_vitb16.py) and PrefixLM: the decoder tells a caption from the image and its first
words. Of the fusion layers 0 to 5, layer 3 is connected. The released file of TiMix has 12 text layers, 3 fusion layers
with stride 1000, of which none is connected, and 12 decoder layers; mPLUG's base model has 6 / 6 / 3 / 12 and its large
one stride 6, so that none is connected either. mPLUG's image tower is CLIP's: give its weights as `init_from_image`,
with `config.model.image.act=quick_gelu` and `config.model.image.ln_pre=True`.
"""

from ml_collections import ConfigDict

from configs.albef_vitb16 import get_config as albef


def get_config() -> ConfigDict:
    """The recipe: that of `configs.albef_vitb16` with mPLUG's layers and PrefixLM."""
    c = albef()
    c.init_from = ""  # a run of vitb16_boxes.py gives both towers and the predictor

    # Model: 12 text layers, 6 fusion layers of which one is connected, 12 decoder layers.
    c.model.name = "mplug"
    c.model.text.depth = 12
    c.model.options.mplug.fusion_depth = 6
    c.model.options.mplug.stride = 3  # 1000: no connected layer
    c.model.options.mplug.decoder_depth = 12

    # Prefix language modelling.
    c.loss.plm.weight = 1.0
    c.loss.plm.alpha = 0.4  # share of the teacher in the targets; needs optim.ema
    c.loss.plm.alpha_steps = "1 epoch"  # it grows to 0.4 over this time
    c.loss.plm.empty_prefix = (
        0.0  # the paper's: both parts have a word; above 0 for captions without a prefix
    )
    c.loss.plm.chunk = 10  # of 30 positions, whose logits exist at a time

    # Evaluation: also words after a prefix, and captions.
    c.eval.evaluators = (*c.eval.evaluators, "prefix_words", "captions")
    c.eval.options.captions.beams = 5
    c.eval.options.captions.max_tokens = 25
    c.eval.options.captions.min_tokens = 8
    c.eval.options.captions.length_penalty = "gnmt"  # ((5 + length)/6)^α
    c.eval.options.captions.length_alpha = 0.6
    c.eval.options.captions.prefix = "a picture of"  # the decoder is trained behind a word at least
    return c
