"""Measurements that stand in docs/results/; each is one command."""
