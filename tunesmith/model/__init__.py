"""Tokens in, tensors out: one resident base, many roles."""
