"""Studies: a grid of ordinary runs (method × data × budget × seed), and the tables that compare them.

`python -m timix_jax.study --config=configs/studies/NAME.py` trains what is missing and writes the report. Every run is
a process of `timix_jax.main` with its own working folder, so that a study resumes where it was stopped. May import
reporting and runtime; nothing imports it.
"""
