"""Saved tiny models, made once."""

import pytest
import tiny

from tunesmith.model import base as bases


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folders by architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {name: tiny.save(root / name, name) for name in ("llama", "qwen3", "gpt2")}


@pytest.fixture
def base(saved):
    """A fresh tiny Llama."""
    return bases.load(str(saved["llama"]))
