"""What other tools do with the same job, one module each; `python -m benchmarks.peers WORKLOAD` measures them."""
