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


class PolicyGuest(exports.PolicyGuest):
    def describe(self) -> Description:
        return Description("decorrelated-jitter", "0.1.0", SCHEMA)

    def configure(self, configuration: str) -> None:
        try:
            self.factor = jitter.parse(configuration)
        except jitter.Invalid as why:
            raise Err(str(why)) from None

    def decide(self, question: Question) -> Decision:
        return Decision_RetryAfter(
            jitter.wait(self.factor, question.previous_delay_ms, question.floor_ms, question.ceiling_ms, question.seed)
        )
