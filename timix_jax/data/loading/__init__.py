"""From sources to batches: the input pipeline for training and evaluation."""
