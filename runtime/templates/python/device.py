"""What the device says, and the configuration: no host, so any Python can test it."""

import json
import math

REQUEST = b"READ?\n"


def parse(text: str) -> tuple[str, int]:
    """Device and poll_ms. Raises ValueError with what is wrong."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.keys() != {"device", "poll_ms"}:
        raise ValueError('"device" and "poll_ms" are needed, and nothing else')
    device, poll_ms = fields["device"], fields["poll_ms"]
    if not isinstance(device, str) or not device:
        raise ValueError("device: a name is needed")
    if not isinstance(poll_ms, int) or isinstance(poll_ms, bool) or not 10 <= poll_ms < 2**32:
        raise ValueError("poll_ms: a whole number from 10 is needed")
    return device, poll_ms


def number(answer: bytes) -> float:
    """Raises ValueError for anything that is no finite number."""
    value = float(answer.decode("ascii"))
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value
