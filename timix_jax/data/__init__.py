"""Examples, from storage to batches: records, sources, tokenizers, transforms, pipeline."""
