// A reconnect policy. It imports nothing of the host: all it may know is in the question.

#include "reconnect_policy.h"
#include "waits.h"

#define SCHEMA \
    "{\"type\":\"object\",\"required\":[\"step_ms\"],\"additionalProperties\":false," \
    "\"properties\":{\"step_ms\":{\"type\":\"integer\",\"minimum\":1}}}"

static unsigned step_ms;

void exports_moorline_edge_policy_guest_describe(exports_moorline_edge_policy_guest_description_t *ret) {
    reconnect_policy_string_dup(&ret->name, "{{name}}");
    reconnect_policy_string_dup(&ret->version, "0.1.0");
    reconnect_policy_string_dup(&ret->configuration_schema, SCHEMA);
}

bool exports_moorline_edge_policy_guest_configure(reconnect_policy_string_t *configuration, reconnect_policy_string_t *err) {
    const char *wrong = step_parse((const char *)configuration->ptr, configuration->len, &step_ms);
    reconnect_policy_string_free(configuration);
    if (wrong) reconnect_policy_string_dup(err, wrong);
    return !wrong;
}

void exports_moorline_edge_policy_guest_decide(exports_moorline_edge_policy_guest_question_t *question,
                                               exports_moorline_edge_policy_guest_decision_t *ret) {
    ret->tag = EXPORTS_MOORLINE_EDGE_POLICY_GUEST_DECISION_RETRY_AFTER;
    ret->val.retry_after = wait_ms(step_ms, question->attempt, question->floor_ms, question->ceiling_ms, question->seed);
}
