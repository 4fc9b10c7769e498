// cc -o /tmp/test_waits test_waits.c waits.c json.c -lm && /tmp/test_waits
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "waits.h"

int main(void) {
    const uint32_t attempts[] = {1, 10, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        for (uint32_t seed = 0; seed < 1000; seed++) {
            uint32_t ms = wait_ms(500, attempts[i], 1000, 60000, seed);
            assert(ms >= 1000 && ms <= 60000);
        }
    }
    unsigned step_ms;
    assert(!step_parse("{\"step_ms\": 500}", 16, &step_ms) && step_ms == 500);
    const char *bad[] = {"", "{}", "{\"step_ms\": 0}", "{\"step_ms\": 1, \"more\": 2}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert(step_parse(bad[i], strlen(bad[i]), &step_ms));
    return 0;
}
