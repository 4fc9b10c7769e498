#include "registers.h"

#include <string.h>

#include "json.h"

#define READ_HOLDING 3
#define WRITE_SINGLE 6
#define HEADER_BYTES 7

const char *settings_parse(const char *text, size_t length, settings *out) {
    *out = (settings){.unit = 1, .poll_ms = 1000, .timeout_ms = 1000};
    bool has_address = false;
    json_object object = json_open(text, length);
    json_member member;
    json_step step;
    while ((step = json_next(&object, &member)) == JSON_MEMBER) {
        if (strcmp(member.name, "device") == 0) {
            if (member.kind != JSON_TEXT || member.text[0] == '\0') return "device: a name is needed";
            strcpy(out->device, member.text);
        } else if (strcmp(member.name, "unit") == 0) {
            if (!json_whole(&member, 0, 255, &out->unit)) return "unit: a number from 0 to 255 is needed";
        } else if (strcmp(member.name, "address") == 0) {
            if (!json_whole(&member, 0, 65535, &out->address)) return "address: a number from 0 to 65535 is needed";
            has_address = true;
        } else if (strcmp(member.name, "count") == 0) {
            if (!json_whole(&member, 1, REGISTERS_MAX, &out->count)) return "count: a number from 1 to 125 is needed";
        } else if (strcmp(member.name, "poll_ms") == 0) {
            if (!json_whole(&member, 10, 3600000, &out->poll_ms)) return "poll_ms: a number from 10 to 3600000 is needed";
        } else if (strcmp(member.name, "timeout_ms") == 0) {
            if (!json_whole(&member, 1, 10000, &out->timeout_ms)) return "timeout_ms: a number from 1 to 10000 is needed";
        } else {
            return "it has a field that is none of device, unit, address, count, poll_ms, timeout_ms";
        }
    }
    if (step == JSON_BAD) return "it is no flat JSON object";
    if (out->device[0] == '\0') return "device is missing";
    if (!has_address || out->count == 0) return "address and count are needed";
    if (out->address + out->count > 65536) return "address and count reach past register 65535";
    return NULL;
}

static void put16(uint8_t *bytes, unsigned value) {
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *bytes) {
    return (unsigned)bytes[0] << 8 | bytes[1];
}

static void encode(uint8_t request[REQUEST_BYTES], uint16_t transaction, unsigned unit, uint8_t function, unsigned first,
                   unsigned second) {
    put16(request, transaction);
    put16(request + 2, 0);
    put16(request + 4, REQUEST_BYTES - 6);
    request[6] = (uint8_t)unit;
    request[7] = function;
    put16(request + 8, first);
    put16(request + 10, second);
}

void encode_read(uint8_t request[REQUEST_BYTES], uint16_t transaction, const settings *settings) {
    encode(request, transaction, settings->unit, READ_HOLDING, settings->address, settings->count);
}

void encode_write(uint8_t request[REQUEST_BYTES], uint16_t transaction, const settings *settings, unsigned address,
                  unsigned value) {
    encode(request, transaction, settings->unit, WRITE_SINGLE, address, value);
}

const char *decode(const uint8_t request[REQUEST_BYTES], const uint8_t *response, size_t length, uint16_t *registers) {
    if (length < HEADER_BYTES + 2 || get16(response + 4) != length - 6) return "the response is no Modbus frame";
    if (memcmp(response, request, 4) != 0) return "the response is of another transaction";
    if (response[6] != request[6]) return "the response is of another unit";
    if (response[7] == (request[7] | 0x80)) return "the device refuses the request";
    if (response[7] != request[7]) return "the response is of another function";
    if (request[7] == WRITE_SINGLE) {
        return length == REQUEST_BYTES && memcmp(response + 8, request + 8, 4) == 0 ? NULL : "something else was written";
    }
    size_t bytes = (size_t)get16(request + 10) * 2;
    if (response[8] != bytes || length != HEADER_BYTES + 2 + bytes) return "the response has other registers";
    for (size_t i = 0; i < bytes / 2; i++) registers[i] = (uint16_t)get16(response + HEADER_BYTES + 2 + i * 2);
    return NULL;
}
