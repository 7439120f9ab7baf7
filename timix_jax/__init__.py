"""TiMix in JAX: data-efficient vision-language pre-training by text-aware image mixing (arXiv 2312.08846)."""

__version__ = "0.1.0"
