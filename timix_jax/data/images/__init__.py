"""Images: decoding, crops, flips and RandAugment, with boxes that follow.

Imports `records` (for CorruptExample) and nothing else from `data`.
"""
