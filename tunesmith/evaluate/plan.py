"""How many prompts an evaluation needs, said before it runs.

Preference rates of single prompts are 0 or 1 at worst (ties make them less scattered), so Wilson's interval of a share
is what a rate will have at most.

>>> needed(0.03, 0.85), needed(0.03, 0.71)
(545, 876)
"""

from __future__ import annotations

from tunesmith.statistics import Interval, wilson

MOST = 100_000_000


def reach(n: int, rate: float = 0.5, level: float = 0.95) -> Interval:
    """The interval that n prompts will give a rate."""
    return wilson(rate * n, n, level)


def half_width(n: int, rate: float = 0.5, level: float = 0.95) -> float:
    """The ± of n prompts: half of the interval."""
    found = reach(n, rate, level)
    return (found.high - found.low) / 2


def needed(half: float, rate: float = 0.5, level: float = 0.95) -> int:
    """The fewest prompts whose interval reaches no further than ± `half` at this rate.

    Raises:
        ValueError: `half` is not between 0 and 1/2, or `rate` not between 0 and 1.
    """
    if not 0 < half < 0.5 or not 0 <= rate <= 1:
        raise ValueError(f"±{half} at a rate of {rate} is no precision of a share")
    low, high = 0, 1
    while half_width(high, rate, level) > half and high < MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(middle, rate, level) <= half else (middle, high)
    return high


def telling(rate: float, level: float = 0.95) -> int:
    """The fewest prompts at which a rate this far from one half is told from it.

    Raises:
        ValueError: it is one half.
    """
    if rate == 0.5 or not 0 <= rate <= 1:
        raise ValueError(f"no number of prompts tells {rate} from one half")
    rate, n = max(rate, 1 - rate), 1
    while reach(n, rate, level).low <= 0.5:
        n += max(1, n // 200)
    while n > 1 and reach(n - 1, rate, level).low > 0.5:
        n -= 1
    return n


def sentence(n: int, rate: float = 0.5, half: float = 0.03) -> str:
    """What n prompts can show, in words.

    >>> sentence(200, 0.7)
    '200 prompts: ±6.3 points at a rate of 70%; ±3.0 needs 894.'
    """
    have = half_width(n, rate)
    enough = "" if have <= half else f"; ±{100 * half:.1f} needs {needed(half, rate):,}"
    return f"{n:,} prompts: ±{100 * have:.1f} points at a rate of {rate:.0%}{enough}."
