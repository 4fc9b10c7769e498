#include "device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

const char *settings_parse(const char *text, size_t length, settings *out) {
    *out = (settings){.poll_ms = 0};
    json_object object = json_open(text, length);
    json_member member;
    json_step step;
    while ((step = json_next(&object, &member)) == JSON_MEMBER) {
        if (strcmp(member.name, "device") == 0) {
            if (member.kind != JSON_TEXT || member.text[0] == '\0') return "device: a name is needed";
            strcpy(out->device, member.text);
        } else if (strcmp(member.name, "poll_ms") == 0) {
            if (!json_whole(&member, 10, 4294967295.0, &out->poll_ms)) return "poll_ms: a whole number from 10 is needed";
        } else {
            return "it has a field that is none of device, poll_ms";
        }
    }
    if (step == JSON_BAD) return "it is no flat JSON object";
    return out->device[0] && out->poll_ms ? NULL : "device and poll_ms are needed";
}

bool number_parse(const char *answer, size_t length, double *number) {
    char line[64];
    if (length == 0 || length >= sizeof line) return false;
    memcpy(line, answer, length);
    line[length] = '\0';
    char *end;
    *number = strtod(line, &end);
    return end != line && strspn(end, "\r\n") == strlen(end) && isfinite(*number);
}
