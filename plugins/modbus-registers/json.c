#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void skip_spaces(json_object *object) {
    while (object->at < object->end && memchr(" \t\r\n", *object->at, 4)) object->at++;
}

static bool take(json_object *object, char wanted) {
    skip_spaces(object);
    if (object->at == object->end || *object->at != wanted) return false;
    object->at++;
    return true;
}

static bool take_text(json_object *object, char *text, size_t size) {
    if (!take(object, '"')) return false;
    size_t length = 0;
    while (object->at < object->end && length + 1 < size) {
        char c = *object->at++;
        if (c == '"') {
            text[length] = '\0';
            return true;
        }
        if ((unsigned char)c < 0x20) return false;
        if (c == '\\') {
            if (object->at == object->end || !memchr("\"\\/", *object->at, 3)) return false;
            c = *object->at++;
        }
        text[length++] = c;
    }
    return false;
}

static bool take_number(json_object *object, double *number) {
    char digits[32];
    size_t length = 0;
    skip_spaces(object);
    while (object->at < object->end && memchr("+-.0123456789eE", *object->at, 15)) {
        if (length + 1 == sizeof digits) return false;
        digits[length++] = *object->at++;
    }
    digits[length] = '\0';
    char *end;
    *number = strtod(digits, &end);
    return length > 0 && *end == '\0' && isfinite(*number);
}

json_object json_open(const char *text, size_t length) {
    return (json_object){.at = text, .end = text + length, .begun = false};
}

json_step json_next(json_object *object, json_member *member) {
    bool first = !object->begun;
    if (first && !take(object, '{')) return JSON_BAD;
    object->begun = true;
    if (take(object, '}')) {
        skip_spaces(object);
        return object->at == object->end ? JSON_END : JSON_BAD;
    }
    if (!first && !take(object, ',')) return JSON_BAD;
    if (!take_text(object, member->name, sizeof member->name) || !take(object, ':')) return JSON_BAD;
    skip_spaces(object);
    if (object->at < object->end && *object->at == '"') {
        member->kind = JSON_TEXT;
        return take_text(object, member->text, sizeof member->text) ? JSON_MEMBER : JSON_BAD;
    }
    member->kind = JSON_NUMBER;
    return take_number(object, &member->number) ? JSON_MEMBER : JSON_BAD;
}

bool json_whole(const json_member *member, double least, double most, unsigned *value) {
    if (member->kind != JSON_NUMBER || member->number < least || member->number > most) return false;
    if (member->number != floor(member->number)) return false;
    *value = (unsigned)member->number;
    return true;
}
