"""TiMix as published, at the paper's scale: ViT-B/16 and BERT-base at 256 px, batch 1,024, 30 epochs.

Bring your own data; patch-text alignment and the scores "tpp" need some with regions (COCO, Visual Genome):

python -m timix_jax.main --config=configs/vitb16_boxes.py --config.data.tokenizer=vocab.txt \
    --config.data.train="('records:/data/coco', 'records:/data/cc3m')" \
    --config.eval.sets="('coco_val=records:/data/coco_val',)"

Plain web pairs: configs/vitb16.py.
"""

from ml_collections import ConfigDict

from configs.vitb16 import get_config as without_boxes


def get_config() -> ConfigDict:
    """The recipe: that of `configs.vitb16` with the paper's scores, labels, second view and teacher."""
    c = without_boxes()
    # Model.
    c.model.image.pool = "cls"  # the [CLS] token is the image's vector
    c.model.text.max_tokens = 40  # [CLS] and [SEP] included
    c.model.tpp_layer = 5  # block whose patches the predictor reads, 0 to 11

    # Mixing.
    c.mix.options.timix.lambda_by = "area"  # λ measures area; or relevance, "mass"
    c.mix.score = "tpp"  # the patch predictor
    c.mix.captions = "own"  # each caption stays a positive, by its share of the image
    c.mix.target = "hard"  # or pred, pred_shared (released code), blend
    c.mix.label_smoothing = 0.0  # for the hard target
    c.mix.placement = "extra"  # mixed images are a second view, as in the paper
    c.mix.fraction = 1.0  # share of the batch that is mixed
    c.mix.weight = 1.0  # for the mixed loss
    c.mix.ramp = "1 epoch"  # γ grows to 1 over this time
    c.mix.until = "66%"  # mixing ends here, after epoch 20 of 30; the step is compiled again then

    # Contrastive loss with a moving-average teacher.
    c.loss.itc.weight = 1.0
    c.loss.itc.alpha = 0.4  # share of the teacher in the targets; needs optim.ema
    c.loss.itc.alpha_steps = "1 epoch"  # it grows to 0.4 over this time
    c.optim.ema = 0.995  # decay of the moving average, the teacher
    c.optim.warmup = "2000 steps"  # the paper's
    c.eval.weights = "params"  # or "ema", the moving average

    # Patch-text alignment on annotated images; without regions set its weight to 0.
    c.loss.pta.weight = 1.0
    c.loss.pta.full_captions = False  # label full captions with ones, as the released code does
    # Annotated images per step: a quarter of the batch, whatever its size.
    c.regions.batch_size = c.train.get_ref("batch_size") // 4
    c.regions.max_regions = 5  # (text, box) pairs per image
    c.regions.max_tokens = 16  # phrases are short

    # Evaluation.
    c.eval.evaluators = ("retrieval", "patch_text")  # the second on sets with regions
    return c
