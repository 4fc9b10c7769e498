#include "waits.h"

#include <string.h>

#include "json.h"

const char *step_parse(const char *text, size_t length, unsigned *step_ms) {
    *step_ms = 0;
    json_object object = json_open(text, length);
    json_member member;
    json_step step;
    while ((step = json_next(&object, &member)) == JSON_MEMBER) {
        if (strcmp(member.name, "step_ms") != 0) return "it has a field that is not step_ms";
        if (!json_whole(&member, 1, 4294967295.0, step_ms)) return "step_ms: a whole number from 1 is needed";
    }
    if (step == JSON_BAD) return "it is no flat JSON object";
    return *step_ms ? NULL : "step_ms is needed";
}

uint32_t wait_ms(unsigned step_ms, uint32_t attempt, uint32_t floor_ms, uint32_t ceiling_ms, uint32_t seed) {
    // 64 bits: the numbers may be anything.
    uint64_t most = floor_ms + (uint64_t)step_ms * attempt;
    if (most > ceiling_ms) most = ceiling_ms;
    uint64_t least = most / 2 > floor_ms ? most / 2 : floor_ms;
    if (most <= least) return floor_ms;
    // Knuth's multiplier: seeds that follow each other must not give waits that do.
    uint32_t share = seed * 2654435761u;
    return (uint32_t)(least + ((most - least) * share >> 32));
}
