"""TiMix on emoji scenes: a few minutes on two CPU cores, scenes by an unseen vendor as the test."""

from ml_collections import ConfigDict

from timix_jax.config import default_config

# 240 concepts, 40 of them held out of training, on a 64 px canvas. A drawing's longer side is 0.42 to 0.6 of
# the canvas; drawings are rotated by up to 20 degrees. Scenes are built on first use.
SCENES = "concepts=240&heldout=40&canvas=64&min_size=0.42&max_size=0.6&rotation=20&seed=0"


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden: `--config.train.duration='200 steps'`."""
    c = default_config()
    c.seed = 0  # for initialisation, data order, augmentation and mixing

    # Data: drawings by Google and Twitter; a tenth of the scenes come with boxes.
    c.data.train = (f"emoji:train?{SCENES}&scenes=40000&annotated=0.1",)
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
    c.model.text.max_tokens = 18
    c.model.text.width = 128
    c.model.text.depth = 1
    c.model.text.heads = 8
    c.model.text.mlp_dim = 256
    c.model.text.pre_norm = True  # trains from scratch more easily than BERT's order
    c.model.embed_dim = 128
    c.model.temperature = 0.03  # τ at the start
    c.model.tpp_layer = 2  # block whose patches the predictor reads
    c.model.act = "gelu_tanh"
    c.model.scan = False  # unrolled layers run faster on CPU

    # Mixing.
    c.mix.mixer = "timix"
    c.mix.score = "tpp"  # the trained patch predictor
    c.mix.target = "hard"
    c.mix.placement = "replace"  # mixed images take the place of clean ones
    c.mix.fraction = 0.25  # share of the batch that is mixed
    c.mix.ramp = "10%"  # more images are mixed as the predictor learns
    c.mix.until = "40%"  # mixing ends before training does

    # Patch-text alignment on the annotated scenes.
    c.loss.pta.weight = 1.0
    # Annotated scenes per step: a quarter of the batch, whatever its size.
    c.regions.batch_size = c.train.get_ref("batch_size") // 4
    c.regions.max_regions = 3  # (text, box) pairs per scene, drawn at random each time
    c.regions.max_tokens = 8  # region texts are short

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
    c.eval.sets = tuple(
        f"{name}=emoji:{name}?{SCENES}"
        for name in ("heldout_vendor", "trained_vendor", "heldout_concepts")
    )
    c.eval.every = "50%"
    c.eval.batch_size = 256
    c.checkpoint.every = "25%"
    c.log.every = "50 steps"
    c.pictures.examples = 6  # rows of the mixing sheet
    return c
