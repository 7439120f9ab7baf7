"""Examples, from storage to batches.

From the bottom up, each package importing only those above it in this list:

* `records`: the stored form, shards and the manifest.
* `tokenizers`: captions to token ids.
* `images`: decoding, augmentation and boxes.
* `sources`: random access to records; the registry `SOURCES`.
* `loading`: batches for training and evaluation.
* `prepare`: the command that turns image–text collections into shards of records.
* `emoji`: a source of synthetic scenes, drawn on first use.

Nothing here imports models, objectives, evaluators or training.
"""
