"""Text-aware mixing without boxes at the paper's scale: ViT-B/16 and BERT-base at 256 px, batch 1,024, 30 epochs.

Bring your own pairs; regions are not needed:

python -m timix_jax.main --config=configs/vitb16.py --config.data.tokenizer=vocab.txt \
    --config.data.train="('records:/data/coco', 'records:/data/cc3m')" \
    --config.eval.sets="('coco_val=records:/data/coco_val',)"

The form of mixing is that of configs/demo.py, which docs/results.md compares with others on small data, but for the
pairing. TiMix as published, with a patch predictor trained on regions and a momentum teacher, is
configs/vitb16_boxes.py.
"""

from ml_collections import ConfigDict

from timix_jax.config import default_config


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden on the command line."""
    c = default_config()
    c.seed = 0  # for initialisation, data order, augmentation and mixing
    c.init_from = ""  # another run to take the weights from; position embeddings are interpolated

    # Data: prepared folders ("records:DIR") or TFDS sets ("tfds:NAME"), given on the command line.
    c.data.train = ()
    c.data.weights = ()  # shares of several sources; () = every example once per epoch
    c.data.tokenizer = "wordpiece"  # trained on the captions; or a file, such as BERT's vocab.txt
    c.data.vocab_size = 30522  # BERT's size, for a trained vocabulary
    c.data.processes = -1  # worker processes per host: -1 = one per core, at most 16; 0 = threads
    c.data.threads = 16  # used if processes is 0
    c.augment.crop_min = 0.2  # RandomResizedCrop(0.2-1)
    c.augment.crop_ratio = (3 / 4, 4 / 3)  # width / height of the crop
    c.augment.flip = True  # mirror half of the images, unless captions name a side (40 languages)
    c.augment.randaugment = 2  # RandAugment(2, 7): operations per image,
    c.augment.magnitude = 7.0  # and their strength, 0 to 10
    c.augment.probability = 0.5  # share of the drawn operations that is applied

    # Model: ViT-B/16 and a 12-layer BERT.
    c.model.image.size = 256  # pixels
    c.model.image.patch = 16  # grid of 16 x 16 patches
    c.model.image.width = 768
    c.model.image.depth = 12
    c.model.image.heads = 12
    c.model.image.mlp_dim = 3072
    # The mean of the patches: a [CLS] token would double the cost of scoring each patch alone.
    c.model.image.pool = "gap"
    c.model.text.max_tokens = 64  # two captions, joined, with [CLS] and [SEP]
    c.model.text.width = 768
    c.model.text.depth = 12
    c.model.text.heads = 12
    c.model.text.mlp_dim = 3072
    c.model.text.pre_norm = False  # BERT's order of norms
    c.model.embed_dim = 256  # width of the shared space
    c.model.tpp_layer = 5  # block that the patch predictor would read; it is not trained here
    c.model.temperature = 0.07  # initial value; it is learned
    c.model.temperature_range = (0.001, 0.5)
    c.model.act = "gelu"  # exact, as in ViT and BERT
    c.model.dtype = "bfloat16"  # for computation; parameters stay float32
    c.model.scan = True  # one compiled layer, run 12 times
    c.model.remat = "full"  # recompute everything but the input of each block; "dots" or "none" where memory allows

    # Mixing.
    c.mix.mixer = "timix"
    c.mix.options.timix.low = 0.35  # smallest side of the window, as a share of the image's
    c.mix.options.timix.high = 0.75  # largest
    c.mix.options.timix.partner = (
        "flip"  # of n mixed rows, k with n-1-k: devices exchange less than for a derangement
    )
    c.mix.score = "single_patch"  # of each patch alone with the caption
    c.mix.captions = "joined"  # both captions describe the mixed image: one positive
    c.mix.placement = "among"  # mixed images take the place of some clean ones
    c.mix.fraction = 0.5  # share of the batch that is mixed
    c.mix.ramp = "10%"  # more images are mixed as similarities become meaningful
    c.mix.until = "85%"  # mixing ends before training does; the step is compiled again then

    # The loss over all pairs of the global batch.
    c.contrastive.loss = "softmax"  # or "sigmoid" (SigLIP; then model.temperature = 0.1)
    c.contrastive.method = (
        "gather"  # embeddings on every device, no N x N matrix; or "ring", "dense"
    )
    c.contrastive.chunk = 1024  # columns per tile

    # No patch-text alignment: it needs regions.
    c.loss.pta.weight = 0.0

    # Optimiser and duration.
    c.train.batch_size = 1024  # over all devices
    c.train.duration = "30 epochs"
    c.optim.name = "adamw"  # or "muon" for the blocks' matrices
    c.optim.lr = 1e-4
    c.optim.lr_scales = ()  # (("image/.*", 0.1),) gives a pretrained ViT 1e-5, as in the paper
    c.optim.warmup = "2%"  # linear, from
    c.optim.start_lr = 1e-6  # this to lr,
    c.optim.end_lr = 1e-6  # then a cosine down to this
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.weight_decay = 0.02  # not for norms, biases and position embeddings
    c.optim.clip_norm = 1.0  # for the whole gradient

    # Devices: the batch over data and fsdp, large parameters over fsdp; -1 = all that remain.
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1

    # Evaluation, checkpoints, log.
    c.eval.sets = ()  # ("NAME=SOURCE", ...)
    c.eval.evaluators = ("retrieval",)
    c.eval.every = "1 epoch"
    c.eval.batch_size = 512
    c.checkpoint.every = "1000 steps"
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = 0  # also keep steps that are multiples of this; 0 = none
    c.log.every = "50 steps"
    c.log.tensorboard = True
    c.pictures.examples = 6  # rows of the mixing sheet
    return c
