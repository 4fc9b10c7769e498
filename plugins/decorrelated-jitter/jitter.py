"""Decorrelated jitter: each wait is drawn between the floor and a multiple of the wait before.

Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
"""

import json

FACTOR = 3


class Invalid(Exception):
    """The configuration cannot work."""


def parse(text: str) -> float:
    """The factor of `{"factor": 3}`."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise Invalid(f"not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.keys() - {"factor"}:
        raise Invalid('an object with nothing but "factor" is needed')
    factor = fields.get("factor", FACTOR)
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 1 < factor <= 100:
        raise Invalid("factor: a number above 1 and up to 100 is needed")
    return factor


def wait(factor: float, previous_ms: int, floor_ms: int, ceiling_ms: int, seed: int) -> int:
    """The next wait. The seed is all the randomness there is: the same question gets the same answer."""
    most = min(ceiling_ms, max(previous_ms, floor_ms) * factor)
    return int(floor_ms + (most - floor_ms) * mixed(seed)) if most > floor_ms else floor_ms


def mixed(seed: int) -> float:
    """0 to 1, by one round of SplitMix64: seeds that follow each other must not give waits that do."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)
