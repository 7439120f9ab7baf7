"""The contrastive loss over all image-text pairs.

`loss.PairLoss` is the entry point. It combines a kind of loss (`kinds`: softmax, sigmoid), a target (`targets`) and a
method (`sweep`: dense matrix, gather or ring). Each kind and each target has two forms: one over dense (B, B) matrices,
which is the reference, and one over sums, for batches whose matrix does not fit. `shares` says which captions a mixed
image shows, `sums` holds the reductions over tiles.
"""
