"""Starting from other weights: what fits, what is interpolated, what is refused."""
