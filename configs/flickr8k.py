"""Real photographs on two CPU cores: Flickr8k, 6,000 images with 5 captions each, in under half an hour.

Prepare the data first, from the image folder and the Karpathy JSON (see `python -m timix_jax.data.prepare --help`),
into data/flickr8k_train and data/flickr8k_val.
"""

from ml_collections import ConfigDict

from timix_jax.config import default_config


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden: `--config.train.duration='200 steps'`."""
    c = default_config()
    c.seed = 0  # for initialisation, data order, augmentation and mixing

    # Data: one caption per image and step, drawn at random.
    c.data.train = ("records:data/flickr8k_train",)
    c.data.tokenizer = "wordpiece"  # trained on the captions
    c.data.vocab_size = 4096
    c.data.processes = -1  # worker processes: -1 = one per core, at most 16; 0 = threads
    c.data.threads = 2  # used if processes is 0
    c.augment.crop_min = 0.5  # smallest share of the area that a random crop keeps
    c.augment.flip = True  # mirror half of the images, unless captions name a side (40 languages)
    c.augment.randaugment = 1  # RandAugment operations per image
    c.augment.magnitude = 7.0  # their strength, 0 to 10

    # Model: a small dual encoder.
    c.model.image.size = 64  # pixels
    c.model.image.patch = 8  # grid of 8 x 8 patches
    c.model.image.width = 128
    c.model.image.depth = 4
    c.model.image.heads = 4
    c.model.image.mlp_dim = 512
    c.model.image.stem = "hierarchical"  # three small layers per patch instead of one
    c.model.image.pool = "gap"  # mean of the patches
    c.model.text.max_tokens = 48  # two captions, joined, fit, with [CLS] and [SEP]
    c.model.text.width = 128
    c.model.text.depth = 1
    c.model.text.heads = 4
    c.model.text.mlp_dim = 512
    c.model.text.pre_norm = True  # trains from scratch more easily than BERT's order
    c.model.embed_dim = 128  # width of the shared space
    c.model.tpp_layer = 2  # block that the patch predictor would read; it is not trained here
    c.model.act = "gelu_tanh"
    c.model.scan = False  # unrolled layers run faster on CPU

    # Mixing, as in configs/demo.py. The data have no regions to train the patch predictor with.
    c.mix.mixer = "timix"
    c.mix.options.timix.partner = "derangement"  # any other image of those that are mixed
    c.mix.score = "single_patch"  # of each patch alone with the caption
    c.mix.captions = "joined"  # both captions describe the mixed image: one positive
    c.mix.placement = "among"  # mixed images take the place of some clean ones
    c.mix.fraction = 0.5  # share of the batch that is mixed
    c.mix.ramp = "10%"  # more images are mixed as similarities become meaningful
    c.mix.until = "85%"  # mixing ends before training does
    c.loss.pta.weight = 0.0  # no regions, hence no alignment

    # Optimiser and duration.
    c.train.batch_size = 128
    c.train.duration = "20 epochs"
    c.optim.name = "muon"  # for the blocks' matrices
    c.optim.lr = 2e-3
    c.optim.warmup = "5%"
    c.optim.b2 = 0.98
    c.optim.weight_decay = 0.1
    c.optim.clip_norm = 1.0  # of the whole gradient

    # Evaluation, checkpoints, log.
    c.eval.sets = ("val=records:data/flickr8k_val",)
    c.eval.evaluators = ("retrieval",)
    c.eval.every = "25%"
    c.eval.batch_size = 256
    c.checkpoint.every = "25%"
    c.log.every = "50 steps"
    c.pictures.examples = 6  # rows of the mixing sheet
    return c
