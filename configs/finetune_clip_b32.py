"""Fine-tune CLIP ViT-B/32 on your own pairs without losing what it knows; bring the weights, their vocabulary and data:

python -m timix_jax.main --config=configs/finetune_clip_b32.py --config.init_from=clip-vit-base-patch32 \
    --config.data.tokenizer=bpe_simple_vocab_16e6.txt.gz --config.data.train="('records:data/mine',)" \
    --config.eval.sets="('val=records:data/mine_val', 'before=records:data/elsewhere')"

Rates are low and fall towards the inputs, every caption of an image is a positive, and the batch is large. Evaluate a
set that has nothing to do with your data besides your own: what falls there is being forgotten. If it does, freeze a
tower (the image tower: LiT, arXiv 2111.07991):

    --config.optim.lr_scales="(('image/.*', 0.0),)"

Weights of open_clip without "quickgelu" in their name need --config.model.act=gelu; the run refuses the wrong one.
"""

from ml_collections import ConfigDict

from timix_jax.config import default_config

LAYER_DECAY = 0.75
INPUTS = LAYER_DECAY**12  # of what comes before the 12 blocks


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden on the command line."""
    c = default_config()
    c.seed = 0  # for initialisation, data order and augmentation
    c.init_from = ""  # weights: a folder or file, docs/pretrained.md lists the layouts

    # Data: prepared folders ("records:DIR"), given on the command line.
    c.data.train = ()
    c.data.tokenizer = "wordpiece"  # give the vocabulary of the weights: another one is refused
    c.data.processes = -1  # worker processes per host: -1 = one per core, at most 16
    c.augment.crop_min = 0.8  # most of the image stays, so that captions stay true
    c.augment.flip = True  # mirror half of the images, unless captions name a side (40 languages)

    # Model: CLIP ViT-B/32 as its weights need it.
    c.model.act = "quick_gelu"  # OpenAI's; "gelu" for most of open_clip's
    c.model.embed_dim = 512  # width of the shared space
    c.model.image.size = 224  # pixels; larger ones work too, positions are interpolated
    c.model.image.patch = 32  # grid of 7 x 7 patches
    c.model.image.width = 768
    c.model.image.depth = 12
    c.model.image.heads = 12
    c.model.image.mlp_dim = 3072
    c.model.image.ln_pre = True  # a norm before the blocks
    c.model.image.eps = 1e-5  # of the norms
    c.model.text.max_tokens = 77  # fewer are faster, where captions are short
    c.model.text.width = 512
    c.model.text.depth = 12
    c.model.text.heads = 8
    c.model.text.mlp_dim = 2048
    c.model.text.pre_norm = True  # norms come before each sublayer
    c.model.text.causal = True  # a token sees those before it
    c.model.text.pool = "eot"  # the end of the caption is its vector
    c.model.text.eps = 1e-5  # of the norms
    c.model.dtype = "bfloat16"  # for computation; parameters stay float32
    c.model.remat = "dots"  # what the backward pass recomputes; "full" saves more memory

    # Loss: every caption of an image counts, and none is a negative of its own image.
    c.loss.captions.count = 4  # captions besides the first, of Flickr's and COCO's five
    c.loss.captions.weight = 4.0  # each counts as much as the first; 0 for one caption per step
    c.contrastive.method = "gather"  # embeddings on every device, no N x N matrix

    # Optimiser and duration.
    c.train.batch_size = 512  # over all devices; small batches lose what negatives teach
    c.train.duration = "5 epochs"
    c.optim.lr = 1e-5  # of the last blocks and the projections
    c.optim.layer_decay = LAYER_DECAY  # from a block to the one before
    c.optim.lr_scales = (  # of the inputs, and of the temperature, which is trained already
        ("(image|text)/(patch_embed|word_embed|norm_pre)/.*", INPUTS),
        ("(image|text)/(cls|pos_embed)", INPUTS),
        ("log_temperature", 0.0),
    )
    c.optim.warmup = "10%"
    c.optim.start_lr = 0.0  # linear from here to lr,
    c.optim.end_lr = 0.0  # then a cosine down to this
    c.optim.b2 = 0.98  # as CLIP was trained
    c.optim.weight_decay = 0.05  # not for norms, biases and position embeddings
    c.optim.clip_norm = 1.0  # of the whole gradient

    # Evaluation, checkpoints, log.
    c.eval.sets = ()  # ("NAME=SOURCE", ...), one of them from elsewhere
    c.eval.evaluators = ("retrieval",)  # and "classification" on sets with labels
    c.eval.every = "20%"
    c.checkpoint.every = "20%"
    c.log.every = "20 steps"
    return c
