"""Images from bytes to arrays: decoding, crops, flips and RandAugment."""
