"""The contrastive loss over all image-text pairs, in each of its forms."""
