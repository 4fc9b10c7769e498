// How long to wait: one step more with each attempt, drawn from the lower half up. No host, so that any compiler tests it.
#ifndef WAITS_H
#define WAITS_H

#include <stddef.h>
#include <stdint.h>

// Reads {"step_ms": 500}; gives back what is wrong with it, or NULL.
const char *step_parse(const char *text, size_t length, unsigned *step_ms);

// The seed is all the randomness there is: the same question gets the same answer.
uint32_t wait_ms(unsigned step_ms, uint32_t attempt, uint32_t floor_ms, uint32_t ceiling_ms, uint32_t seed);

#endif
