// Equal jitter: half of the exponential wait for certain, the other half by chance. No host, so that any compiler tests it.
// Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
#ifndef JITTER_H
#define JITTER_H

#include <stdint.h>

// The seed is all the randomness there is: the same question gets the same answer.
uint32_t jitter_ms(uint32_t attempt, uint32_t floor_ms, uint32_t ceiling_ms, uint32_t seed);

#endif
