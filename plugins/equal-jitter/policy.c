// The reconnect policy around jitter.c. It imports nothing of the host: all it may know is in the question.

#include <string.h>

#include "jitter.h"
#include "reconnect_policy.h"

void exports_moorline_edge_policy_guest_describe(exports_moorline_edge_policy_guest_description_t *ret) {
    reconnect_policy_string_dup(&ret->name, "equal-jitter");
    reconnect_policy_string_dup(&ret->version, "0.1.0");
    // It takes no configuration.
    reconnect_policy_string_dup(&ret->configuration_schema, "");
}

bool exports_moorline_edge_policy_guest_configure(reconnect_policy_string_t *configuration, reconnect_policy_string_t *err) {
    // An empty object, however it is spaced.
    char kept[3] = "";
    size_t length = 0;
    for (size_t i = 0; i < configuration->len && length < sizeof kept; i++) {
        if (!memchr(" \t\r\n", configuration->ptr[i], 4)) kept[length++] = (char)configuration->ptr[i];
    }
    bool empty = length == 2 && memcmp(kept, "{}", 2) == 0;
    if (!empty) reconnect_policy_string_dup(err, "this policy takes no configuration");
    reconnect_policy_string_free(configuration);
    return empty;
}

void exports_moorline_edge_policy_guest_decide(exports_moorline_edge_policy_guest_question_t *question,
                                               exports_moorline_edge_policy_guest_decision_t *ret) {
    ret->tag = EXPORTS_MOORLINE_EDGE_POLICY_GUEST_DECISION_RETRY_AFTER;
    ret->val.retry_after = jitter_ms(question->attempt, question->floor_ms, question->ceiling_ms, question->seed);
}
