"""A batch of captions that name regions, and the words of its vocabulary."""

import numpy as np
from tiny_model import TOKENS, VOCABULARY, make_batch

from timix_jax.objectives.vocabulary import Vocabulary

PAD, START, END = range(3)
ARTICLE, LAST_NAME = 4, 12
WORDS = Vocabulary(
    VOCABULARY,
    PAD,
    None,
    (PAD, START, END),
    start_id=START,
    end_id=END,
    continues=bytes(index >= VOCABULARY - 3 for index in range(VOCABULARY)),
    articles=(ARTICLE,),
)


def named_batch(rows=8, region_images=4, max_regions=3, seed=0):
    """Return a batch whose regions are called by the words 5 to 12; most words of its captions are among them."""
    rng = np.random.default_rng(seed)
    batch = make_batch(rows, region_images, max_regions, seed)
    tokens = np.full((rows, TOKENS), PAD, np.int32)
    for row in tokens:
        count = rng.integers(1, TOKENS - 1)
        names, others = rng.integers(5, LAST_NAME + 1, count), rng.integers(4, VOCABULARY, count)
        words = np.where(rng.random(count) < 0.6, names, others)
        row[: count + 2] = [START, *words, END]
    texts = np.full((region_images, max_regions, TOKENS), PAD, np.int32)
    names = rng.integers(ARTICLE + 1, LAST_NAME + 1, (region_images, max_regions))
    texts[..., 0], texts[..., 1], texts[..., 3] = START, ARTICLE, END
    texts[..., 2] = names
    mask = np.arange(max_regions) < rng.integers(1, max_regions + 1, (region_images, 1))
    regions = {**batch["regions"], "tokens": texts, "mask": mask}
    return {"image": batch["image"], "tokens": tokens, "regions": regions}
