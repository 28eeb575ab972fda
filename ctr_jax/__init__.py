"""ctr_jax: optax for embedding tables."""

__version__ = '0.1.0'
