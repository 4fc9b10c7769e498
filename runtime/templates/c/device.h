// What the device says, and the configuration: no host, so that any compiler tests it.
#ifndef DEVICE_H
#define DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#define REQUEST "READ?\n"

typedef struct {
    char device[256];
    unsigned poll_ms;
} settings;

// Reads the configuration; gives back what is wrong with it, or NULL.
const char *settings_parse(const char *text, size_t length, settings *out);

// Reads one line of answer; false if it is no finite number.
bool number_parse(const char *answer, size_t length, double *number);

#endif
