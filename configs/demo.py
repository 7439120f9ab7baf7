"""TiMix on few emoji scenes, without boxes: minutes on two CPU cores, scenes by an unseen vendor as the test."""

from ml_collections import ConfigDict

from timix_jax.config import default_config

# 80 concepts, 16 of them held out of training, on a 64 px canvas. A drawing's longer side is 0.38 to 0.54 of the
# canvas; up to half of a drawing may lie outside, so that no part of the canvas shows drawings much more often than
# others; drawings are rotated by up to 20 degrees. Scenes are built on first use.
SCENES = (
    "concepts=80&heldout=16&canvas=64&min_size=0.38&max_size=0.54&rotation=20&on_canvas=0.5&seed=0"
)


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden: `--config.train.duration='200 steps'`."""
    c = default_config()
    c.seed = 0  # for initialisation, data order, augmentation and mixing

    # Data: drawings by Google and Twitter. Each scene is seen 41 times: mixing is for data that are repeated.
    c.data.train = (f"emoji:train?{SCENES}&scenes=5000&annotated=0",)
    c.data.tokenizer = "wordpiece"  # trained on the captions
    c.data.vocab_size = 1024
    c.data.processes = -1  # worker processes: -1 = one per core, at most 16; 0 = threads
    c.data.threads = 2  # used if processes is 0
    c.augment.crop_min = 0.85  # smallest share of the area that a random crop keeps
    c.augment.flip = True  # mirror half of the images, unless captions name a side (40 languages)
    c.augment.randaugment = 2  # RandAugment operations per image
    c.augment.magnitude = 7.0  # their strength, 0 to 10
    c.augment.probability = 0.9  # share of the drawn operations that is applied
    c.augment.operations = (  # mostly colours: the test set is drawn in another style
        "identity",
        "autocontrast",
        "equalize",
        "brightness",
        "sharpness",
        "color",
        "contrast",
        "posterize",
        "shear_x",
        "shear_y",
        "rotate",
    )

    # Model: a small dual encoder.
    c.model.image.size = 40  # pixels
    c.model.image.patch = 8  # grid of 5 x 5 patches
    c.model.image.width = 128
    c.model.image.depth = 4
    c.model.image.heads = 8
    c.model.image.mlp_dim = 256
    c.model.image.pool = "gap"  # mean of the patches
    c.model.image.stem = "hierarchical"  # three small layers per patch instead of one
    c.model.image.patch_dropout = 0.33  # share left out in training: faster, less overfitting
    c.model.text.max_tokens = 32  # two captions, joined, fit
    c.model.text.width = 128
    c.model.text.depth = 1
    c.model.text.heads = 8
    c.model.text.mlp_dim = 256
    c.model.text.pre_norm = True  # trains from scratch more easily than BERT's order
    c.model.embed_dim = 128
    c.model.temperature = 0.03  # τ at the start
    c.model.tpp_layer = 2  # block that the patch predictor would read; it is not trained here
    c.model.act = "gelu_tanh"
    c.model.scan = False  # unrolled layers run faster on CPU

    # Mixing.
    c.mix.mixer = "timix"
    c.mix.options.timix.partner = "derangement"  # any other image of those that are mixed
    c.mix.score = "single_patch"  # of each patch alone with the caption; needs no boxes
    c.mix.captions = (
        "joined"  # both captions describe the mixed image: one positive, not two half ones
    )
    c.mix.placement = "among"  # mixed images take the place of some clean ones
    c.mix.fraction = 0.5  # share of the batch that is mixed
    c.mix.ramp = "10%"  # more images are mixed as similarities become meaningful
    c.mix.until = "85%"  # mixing ends before training does
    c.loss.pta.weight = 0.0  # no boxes, hence no alignment

    # Optimiser and duration.
    c.train.batch_size = 128
    c.train.duration = "1600 steps"
    c.optim.name = "muon"  # for the blocks' matrices; needs half as many examples as AdamW here
    c.optim.lr = 4e-3
    c.optim.warmup = "10%"
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0

    # Evaluation, checkpoints, log.
    c.eval.sets = (
        f"heldout_vendor=emoji:heldout_vendor?{SCENES}",
        f"trained_vendor=emoji:trained_vendor?{SCENES}",
        f"heldout_concepts=emoji:heldout_concepts?{SCENES}&scenes=100",
    )
    c.eval.evaluators = ("retrieval", "patch_scores")
    c.eval.options.patch_scores.sources = ("single_patch",)
    c.eval.every = "50%"
    c.eval.batch_size = 256
    c.checkpoint.every = "25%"
    c.log.every = "50 steps"
    c.pictures.examples = 6  # rows of the mixing sheet
    return c
