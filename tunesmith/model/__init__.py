"""Tokens in, tensors out: one resident base, many roles."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it where it is installed, and it speaks of
# kernels that nobody here uses
