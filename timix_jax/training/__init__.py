"""Training: the run (`train`), its loop and hooks, the pure step and its state, evaluation, pictures.

Top of the import order: may import every package but inspection.
"""
