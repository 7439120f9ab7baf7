"""ALBEF-TiMix at the paper's scale: ViT-B/16, 6 text and 6 fusion layers of BERT-base, 256 px, batch 1,024, 30 epochs.

python -m timix_jax.main --config=configs/albef_vitb16.py --config.data.tokenizer=vocab.txt \
    --config.data.train="('records:/data/coco', 'records:/data/cc3m')" \
    --config.eval.sets="('coco_val=records:/data/coco_val',)"

Losses: ITC with a momentum teacher, matching with hard negatives, masked words, mixed images and patch–text alignment.
Where ALBEF's released configuration differs: batch 512, warm-up by epoch from 1e-5, the rate falls to 1e-5 and not to
1e-6, no gradient clipping, captions of 25 tokens without [SEP], ITC against a queue of 65,536 teacher embeddings,
negatives for matching from each GPU alone, and random words of the whole vocabulary for 10% of the hidden ones. The
released code of TiMix is mPLUG's; its errors are listed in docs/method.md §6.
"""

from ml_collections import ConfigDict

from configs.vitb16_boxes import get_config as dual_encoder


def get_config() -> ConfigDict:
    """The recipe: that of `configs.vitb16_boxes`, with the fusion encoder and its losses."""
    c = dual_encoder()
    c.init_from = ""  # a run of vitb16_boxes.py with 6 text layers gives towers and predictor

    # Model: BERT's layers 0-5 read captions, 6-11 captions and images.
    c.model.name = "albef"
    c.model.options.albef.fusion_depth = 6
    c.model.image.projection = "biased"  # into the shared space, as ALBEF's
    c.model.text.projection = "biased"
    c.model.text.depth = 6
    c.model.text.max_tokens = 30  # [CLS] and [SEP] included
    c.model.text.dropout = 0.1  # BERT's, in text and fusion layers

    # Matching: one matching pair and two hard negatives per example.
    c.loss.itm.weight = 1.0
    c.loss.itm.candidates = "global"  # negatives from all devices; "device" sends no image tokens
    c.contrastive.method = "ring"  # also how the image tokens of negatives travel; or "gather"

    # Masked words.
    c.loss.mlm.weight = 1.0
    c.loss.mlm.rate = 0.15  # share of the words that is hidden
    c.loss.mlm.most = 0.3  # at most this share of a caption's positions: 9 words of 30 tokens
    c.loss.mlm.alpha = 0.4  # share of the teacher in the targets; needs optim.ema
    c.loss.mlm.alpha_steps = "1 epoch"  # it grows to 0.4 over this time

    # Evaluation: recall, recall after matching has put the best 256 in order, hidden words.
    c.eval.evaluators = ("retrieval", "reranked", "masked_words", "patch_text")
    c.eval.options.reranked.k = 256
    c.eval.batch_size = 256
    return c
