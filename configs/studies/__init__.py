"""Studies: `python -m timix_jax.study --config=configs/studies/NAME.py`."""
