// cc -o /tmp/test_registers test_registers.c registers.c json.c -lm && /tmp/test_registers
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "registers.h"

static const char *parse(const char *text, settings *out) {
    return settings_parse(text, strlen(text), out);
}

int main(void) {
    settings settings;
    assert(!parse("{\"device\": \"press-1\", \"address\": 2, \"count\": 2, \"unit\": 7}", &settings));
    assert(strcmp(settings.device, "press-1") == 0 && settings.unit == 7 && settings.poll_ms == 1000);
    const char *bad[] = {"", "{", "[]", "{}", "{\"device\":\"d\"}", "{\"device\":\"d\",\"address\":1,\"count\":126}",
                         "{\"device\":\"d\",\"address\":65535,\"count\":2}", "{\"device\":\"d\",\"address\":1.5,\"count\":1}",
                         "{\"device\":[],\"address\":1,\"count\":1}", "{\"device\":\"d\",\"address\":1,\"count\":1,\"x\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert(parse(bad[i], &settings));

    assert(!parse("{\"device\":\"press-1\",\"address\":2,\"count\":2}", &settings));
    uint8_t request[REQUEST_BYTES];
    encode_read(request, 0x1234, &settings);
    assert(memcmp(request, "\x12\x34\0\0\0\6\1\3\0\2\0\2", REQUEST_BYTES) == 0);
    uint8_t response[] = {0x12, 0x34, 0, 0, 0, 7, 1, 3, 4, 4, 0xd2, 0xff, 0xf6};
    uint16_t registers[REGISTERS_MAX];
    assert(!decode(request, response, sizeof response, registers));
    assert(registers[0] == 1234 && registers[1] == 65526);
    // No cut and no changed byte of the header passes.
    for (size_t length = 0; length < sizeof response; length++) assert(decode(request, response, length, registers));
    for (size_t i = 0; i < 9; i++) {
        response[i] ^= 0x40;
        assert(decode(request, response, sizeof response, registers));
        response[i] ^= 0x40;
    }
    encode_write(request, 1, &settings, 12, 77);
    assert(!decode(request, request, REQUEST_BYTES, NULL));
    return 0;
}
