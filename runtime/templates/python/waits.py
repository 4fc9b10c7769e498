"""How long to wait: one step more with each attempt, drawn from the lower half up."""

import json


def parse(text: str) -> int:
    """The step. Raises ValueError with what is wrong."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.keys() != {"step_ms"}:
        raise ValueError('"step_ms" is needed, and nothing else')
    step_ms = fields["step_ms"]
    if not isinstance(step_ms, int) or isinstance(step_ms, bool) or not 1 <= step_ms < 2**32:
        raise ValueError("step_ms: a whole number from 1 is needed")
    return step_ms


def wait(step_ms: int, attempt: int, floor_ms: int, ceiling_ms: int, seed: int) -> int:
    """The seed is all the randomness there is: the same question gets the same answer."""
    most = min(floor_ms + step_ms * attempt, ceiling_ms)
    least = max(floor_ms, most // 2)
    # Knuth's multiplier: seeds that follow each other must not give waits that do.
    return least + (seed * 2654435761 % 2**32) * (most - least) // 2**32 if most > least else floor_ms
