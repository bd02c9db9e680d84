"""Imported by the fork server, after which its children find these caches full (a second of work each)."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tunesmith.model import machine

get_checkpoint_conversion_mapping("llama")
machine.measure()
