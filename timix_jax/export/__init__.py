"""`python -m timix_jax.export`: a trained model as a folder that other programs read.

`trained.py` is what every format starts from, `refusals.py` names what a format cannot express, `folder.py` writes;
each format is one file with a line in `formats.py`. May import `inference`.
"""
