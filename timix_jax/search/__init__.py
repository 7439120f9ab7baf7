"""`python -m timix_jax.search`: the images of a folder of embeddings that fit a text or an image best.

May import `embed`, whose folders it reads, and `inference`.
"""
