// cc -o /tmp/test_jitter test_jitter.c jitter.c && /tmp/test_jitter
#undef NDEBUG
#include <assert.h>

#include "jitter.h"

int main(void) {
    uint64_t first = 0, tenth = 0;
    for (uint32_t seed = 0; seed < 1000; seed++) {
        uint32_t early = jitter_ms(1, 1000, 120000, seed), late = jitter_ms(10, 1000, 120000, seed);
        assert(early >= 1000 && early <= 2000);
        assert(late >= 60000 && late <= 120000);
        first += early;
        tenth += late;
    }
    assert(first > 1400000 && first < 1600000);
    assert(tenth > 88000000 && tenth < 92000000);
    assert(jitter_ms(UINT32_MAX, UINT32_MAX, UINT32_MAX, 7) == UINT32_MAX);
    assert(jitter_ms(0, 0, 0, 7) == 0);
    return 0;
}
