"""The training of one run: the loop, the pure step, its state, evaluation and pictures."""
