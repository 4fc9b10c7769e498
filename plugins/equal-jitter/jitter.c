#include "jitter.h"

// One round of lowbias32: seeds that follow each other must not give waits that do.
static uint32_t mixed(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

uint32_t jitter_ms(uint32_t attempt, uint32_t floor_ms, uint32_t ceiling_ms, uint32_t seed) {
    // 64 bits: the numbers may be anything.
    uint64_t grown = (uint64_t)floor_ms << (attempt < 20 ? attempt : 20);
    uint64_t most = grown < ceiling_ms ? grown : ceiling_ms;
    uint64_t least = most / 2 > floor_ms ? most / 2 : floor_ms;
    if (most <= least) return floor_ms;
    return (uint32_t)(least + ((most - least + 1) * mixed(seed) >> 32));
}
