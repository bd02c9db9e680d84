"""Tunesmith: fine-tune language models with human feedback, on one laptop or on a cluster."""

__version__ = "0.1.0"
