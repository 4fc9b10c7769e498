"""What an SCPI instrument says and what we ask it: no host, no socket, so it is tested with any Python.

Configuration:
  device       the device's name on the platform
  readings     list of {"key", "query"}: each query is asked at every poll and answered by one number
  settings     {"key": "COMMAND {}"}: what an RPC "set" may change; {} is replaced by the value
  poll_ms      time between polls, default 1000
  timeout_ms   an answer must be there by then, default 1000
"""

import json
import math
from dataclasses import dataclass


class Invalid(Exception):
    """The configuration cannot work; the text says what and where."""


@dataclass(frozen=True)
class Query:
    key: str
    query: str


@dataclass(frozen=True)
class Configuration:
    device: str
    readings: tuple[Query, ...]
    settings: dict[str, str]
    poll_ms: int = 1000
    timeout_ms: int = 1000

    @classmethod
    def parse(cls, text: str) -> "Configuration":
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise Invalid(f"not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise Invalid("not an object")
        unknown = fields.keys() - {"device", "readings", "settings", "poll_ms", "timeout_ms"}
        if unknown:
            raise Invalid(f"unknown field {sorted(unknown)[0]!r}")
        if not isinstance(fields.get("device"), str) or not fields["device"]:
            raise Invalid("device: a name is needed")
        settings = fields.get("settings", {})
        if not isinstance(settings, dict):
            raise Invalid("settings: not an object")
        for key, command in settings.items():
            if not isinstance(command, str) or command.count("{}") != 1 or not is_line(command):
                raise Invalid(f'settings.{key}: needs one {{}} for the value, as in "VOLT {{}}"')
        return cls(
            device=fields["device"],
            readings=queries(fields.get("readings")),
            settings=settings,
            poll_ms=bounded(fields, "poll_ms", 10, 3_600_000),
            timeout_ms=bounded(fields, "timeout_ms", 1, 10_000),
        )


def queries(entries) -> tuple[Query, ...]:
    if not isinstance(entries, list) or not entries:
        raise Invalid('readings: at least one {"key", "query"} is needed')
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.keys() != {"key", "query"}:
            raise Invalid(f'readings[{at}]: needs "key" and "query" and nothing else')
        if not isinstance(entry["key"], str) or not entry["key"]:
            raise Invalid(f"readings[{at}].key: a name is needed")
        query = entry["query"]
        if not isinstance(query, str) or not query.endswith("?") or not is_line(query):
            raise Invalid(f'readings[{at}].query: one line that ends with "?" is needed')
    return tuple(Query(**entry) for entry in entries)


def bounded(fields: dict, name: str, least: int, most: int) -> int:
    value = fields.get(name, 1000)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Invalid(f"{name}: a whole number from {least} to {most} is needed")
    return value


def is_line(text: str) -> bool:
    """SCPI is ASCII, one command a line: nothing may smuggle in another one."""
    return text.isascii() and text.isprintable()


def number(answer: bytes) -> float:
    """One answer, as `+1.234560E+00`. Raises ValueError for anything else."""
    value = float(answer.decode("ascii").strip())
    # SCPI's "not a number" and "overload" are numbers: 9.91E37 and 9.9E37.
    if not math.isfinite(value) or abs(value) >= 9.9e37:
        raise ValueError(f"overload ({value})")
    return value


def command(configuration: Configuration, params: str) -> str:
    """The line for an RPC `set`. Raises ValueError with what is wrong."""
    fields = json.loads(params)
    if not isinstance(fields, dict) or fields.get("key") not in configuration.settings:
        raise ValueError(f'params are {{"key", "value"}} with a key of {sorted(configuration.settings)}')
    value = fields.get("value")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("value: a number is needed")
    return configuration.settings[fields["key"]].replace("{}", repr(value))
