"""The memory benchmark's parts that do not take minutes."""

import pytest

from benchmarks import memory
from tunesmith.quickstart.builtin import BASES


@pytest.mark.slow
def test_the_idle_process_measures_itself():
    assert 100 < float(memory._python("-c", memory.IDLE, BASES["loan-desk"])) < 4000
