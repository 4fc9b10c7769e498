"""The reconnect policy around `jitter.py`. It imports nothing of the host: all it may know is in the question."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.policy_guest import Decision, Decision_RetryAfter, Description, Question

import jitter

SCHEMA = """{
  "type": "object",
  "additionalProperties": false,
  "properties": {"factor": {"type": "number", "exclusiveMinimum": 1, "maximum": 100, "default": 3}}
}"""


factor = jitter.FACTOR


class PolicyGuest(exports.PolicyGuest):
    """The host's way in. There is a new one for every call: what lasts is in the module."""

    def describe(self) -> Description:
        return Description("decorrelated-jitter", "0.1.0", SCHEMA)

    def configure(self, configuration: str) -> None:
        global factor
        try:
            factor = jitter.parse(configuration)
        except jitter.Invalid as why:
            raise Err(str(why)) from None

    def decide(self, question: Question) -> Decision:
        return Decision_RetryAfter(
            jitter.wait(factor, question.previous_delay_ms, question.floor_ms, question.ceiling_ms, question.seed)
        )
