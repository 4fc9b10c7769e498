// Modbus TCP as far as this plugin needs it, and its configuration: no host, so that any compiler tests it.
//
//   request   transaction:2 0:2 length:2 unit:1 function:1 address:2 count-or-value:2
//   response  transaction:2 0:2 length:2 unit:1 3:1 bytes:1 registers, or 6:1 and the request's, or 0x80+function:1 code:1
#ifndef REGISTERS_H
#define REGISTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REQUEST_BYTES 12
#define REGISTERS_MAX 125

typedef struct {
    char device[256];
    unsigned unit;
    unsigned address;
    unsigned count;
    unsigned poll_ms;
    unsigned timeout_ms;
} settings;

// Reads the configuration; gives back what is wrong with it, or NULL.
const char *settings_parse(const char *text, size_t length, settings *out);

void encode_read(uint8_t request[REQUEST_BYTES], uint16_t transaction, const settings *settings);
void encode_write(uint8_t request[REQUEST_BYTES], uint16_t transaction, const settings *settings, unsigned address,
                  unsigned value);

// What a response is not, or NULL if it answers the request; registers may be NULL for a write.
const char *decode(const uint8_t request[REQUEST_BYTES], const uint8_t *response, size_t length, uint16_t *registers);

#endif
