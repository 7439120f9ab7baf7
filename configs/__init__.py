"""Recipes: one complete configuration a file, for `python -m timix_jax.main --config=configs/NAME.py`."""
