"""Batches that may hold an example twice: those in which one epoch ends and the next begins."""

from collections.abc import Sequence

from absl import logging

from timix_jax.data.sources import Source


def log_epoch_borders(
    sources: Sequence[Source], weights: Sequence[float] | None, batch_size: int
) -> None:
    """Say in the log whether batches may hold an example twice, a false negative of a contrastive loss.

    Each epoch is shuffled separately, so that the last examples of one may be among the first of the next. The order
    stays as it is: resumed runs depend on it.

    Args:
      sources: the sources of the training.
      weights: their shares, or None.
      batch_size: examples per step, over all processes.
    """
    if not weights:
        count = sum(map(len, sources))
        if count % batch_size:
            # With k rows of the old epoch, k (B - k) / N pairs meet: B² / 6 N on average over k.
            logging.info(
                "an epoch of %d examples ends inside a batch of %d, which may then hold an example twice, a false"
                " negative (about %.2g per epoch)",
                *(count, batch_size, batch_size**2 / (6 * count)),
            )
        return
    if len(weights) != len(sources) or any(not weight > 0 for weight in weights):
        return  # refused where the sources are mixed
    rows = [batch_size * weight / sum(weights) for weight in weights]
    for source, own in zip(sources, rows, strict=True):
        if own > len(source):
            logging.warning(
                "%s: %d examples, but %.0f of each batch by config.data.weights: every batch repeats them, and a"
                " contrastive loss takes the repeats for negatives; lower its weight or train.batch_size",
                *(source.name, len(source), own),
            )
    split = [
        (len(source), own) for source, own in zip(sources, rows, strict=True) if len(source) % own
    ]
    if split:
        logging.info(
            "epochs of sources mixed by weight end inside batches, which may then hold an example twice, a false"
            " negative (about %.2g per 1,000 steps)",
            1000 * sum(own**3 / (6 * count**2) for count, own in split),
        )
