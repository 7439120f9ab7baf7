"""Recipes: one complete configuration per file, for `python -m timix_jax.main --config=configs/NAME.py`."""
