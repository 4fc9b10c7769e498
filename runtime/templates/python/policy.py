"""A reconnect policy. It imports nothing of the host: all it may know is in the question."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.policy_guest import Decision, Decision_RetryAfter, Description, Question

import waits

SCHEMA = """{
  "type": "object", "required": ["step_ms"], "additionalProperties": false,
  "properties": {"step_ms": {"type": "integer", "minimum": 1}}
}"""


step_ms = 0


class PolicyGuest(exports.PolicyGuest):
    """The host's way in. There is a new one for every call: what lasts is in the module."""

    def describe(self) -> Description:
        return Description("{{name}}", "0.1.0", SCHEMA)

    def configure(self, configuration: str) -> None:
        global step_ms
        try:
            step_ms = waits.parse(configuration)
        except ValueError as why:
            raise Err(str(why)) from None

    def decide(self, question: Question) -> Decision:
        return Decision_RetryAfter(
            waits.wait(step_ms, question.attempt, question.floor_ms, question.ceiling_ms, question.seed)
        )
