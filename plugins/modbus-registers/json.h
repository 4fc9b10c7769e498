// Reads flat JSON objects of texts and numbers, as {"device": "press-1", "poll_ms": 100}: what a plugin's configuration
// needs. Nested values, null, true and escapes other than \" \\ \/ are refused.
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *at;
    const char *end;
    bool begun;
} json_object;

typedef enum { JSON_TEXT, JSON_NUMBER } json_kind;

typedef struct {
    char name[64];
    json_kind kind;
    char text[256];
    double number;
} json_member;

typedef enum { JSON_MEMBER, JSON_END, JSON_BAD } json_step;

json_object json_open(const char *text, size_t length);
// The next member, the end, or the news that this is no flat object.
json_step json_next(json_object *object, json_member *member);
// Whether the member is a whole number from least to most; if so, into value.
bool json_whole(const json_member *member, double least, double most, unsigned *value);

#endif
