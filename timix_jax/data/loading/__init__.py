"""Loading: from sources to batches, for training and evaluation.

`pipeline` builds the training stream out of `example_stream`, `examples`, `process_rows` and
`loader_processes`, and returns a `train_iterator`; `epoch_borders` says which batches may repeat an
example. `evaluation` and `class_names` read data sets in order, in the parts defined by `share`.
Imports `sources`, `images`, `tokenizers` and `records`.
"""
