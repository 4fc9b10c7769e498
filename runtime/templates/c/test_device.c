// cc -o /tmp/test_device test_device.c device.c json.c -lm && /tmp/test_device
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "device.h"

int main(void) {
    double number;
    assert(number_parse("21.5\r\n", 6, &number) && number == 21.5);
    const char *garbage[] = {"", "\n", "nan\n", "1e999\n", "1 2\n", "\xff\n"};
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        assert(!number_parse(garbage[i], strlen(garbage[i]), &number));
    }
    settings settings;
    const char *good = "{\"device\": \"d\", \"poll_ms\": 10}";
    assert(!settings_parse(good, strlen(good), &settings) && settings.poll_ms == 10);
    const char *bad[] = {"", "[]", "{}", "{\"device\":\"\",\"poll_ms\":10}", "{\"device\":\"d\",\"poll_ms\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert(settings_parse(bad[i], strlen(bad[i]), &settings));
    return 0;
}
