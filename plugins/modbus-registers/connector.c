// Modbus TCP: polls a run of holding registers as r<address>, writes one by RPC.
//
// The host owns the socket; a poll is one exchange with its deadline. What the host does not take is kept and offered again.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connector.h"
#include "json.h"
#include "registers.h"

#define HAND_OVER_SCHEMA 1
// transaction:2 has-unsent:1, then count:1 and the registers, high byte first
#define HAND_OVER_HEAD 3
#define SCHEMA \
    "{\"type\":\"object\",\"required\":[\"device\",\"address\",\"count\"],\"additionalProperties\":false,\"properties\":{" \
    "\"device\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":255}," \
    "\"unit\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":255,\"default\":1}," \
    "\"address\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":65535}," \
    "\"count\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":125}," \
    "\"poll_ms\":{\"type\":\"integer\",\"minimum\":10,\"maximum\":3600000,\"default\":1000}," \
    "\"timeout_ms\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":10000,\"default\":1000}}}"

typedef exports_moorline_edge_connector_guest_fault_t fault;

static settings configuration;
static connector_string_t stream_name;
static uint16_t transaction;
static bool announced;
static bool has_unsent;
static uint16_t registers[REGISTERS_MAX];

static bool fail(fault *err, uint8_t whose, const char *words) {
    err->tag = whose;
    // All cases hold one text, at the same place.
    connector_string_dup(&err->val.device, words);
    return false;
}

static void log_line(uint8_t level, const char *words) {
    connector_string_t line;
    connector_string_set(&line, words);
    moorline_edge_log_write(level, &line);
}

static const char *stream_error(moorline_edge_streams_stream_error_t *error) {
    const char *words = "the stream is not granted";
    switch (error->tag) {
        case MOORLINE_EDGE_STREAMS_STREAM_ERROR_CLOSED: words = "not connected"; break;
        case MOORLINE_EDGE_STREAMS_STREAM_ERROR_TIMEOUT: words = "no answer in time"; break;
        case MOORLINE_EDGE_STREAMS_STREAM_ERROR_TOO_LARGE: words = "the answer is larger than a frame"; break;
        case MOORLINE_EDGE_STREAMS_STREAM_ERROR_BAD_RULE: words = "the host refuses the frame rule"; break;
    }
    moorline_edge_streams_stream_error_free(error);
    return words;
}

// One request and its response; gives back what went wrong, or NULL.
static const char *ask(uint8_t request[REQUEST_BYTES], uint16_t *answer) {
    uint32_t stream;
    moorline_edge_streams_stream_error_t error;
    // A stream that is connected is returned as it is; a closed one is dialled again.
    if (!moorline_edge_streams_open(&stream_name, &stream, &error)) return stream_error(&error);
    // The rest of a frame follows bytes 4 and 5.
    moorline_edge_streams_frame_rule_t rule = {
        .tag = MOORLINE_EDGE_STREAMS_FRAME_RULE_LENGTH_PREFIXED,
        .val.length_prefixed = {.offset = 4, .width = 2, .big_endian = true, .adjust = 0},
    };
    connector_list_u8_t sent = {.ptr = request, .len = REQUEST_BYTES};
    connector_list_u8_t response;
    if (!moorline_edge_streams_exchange(stream, &sent, &rule, configuration.timeout_ms, &response, &error)) {
        return stream_error(&error);
    }
    const char *wrong = decode(request, response.ptr, response.len, answer);
    connector_list_u8_free(&response);
    return wrong;
}

static bool wake_after(exports_moorline_edge_connector_guest_wake_t *ret, uint32_t ms) {
    *ret = (exports_moorline_edge_connector_guest_wake_t){.is_some = true, .val = ms};
    return true;
}

// Whether the host took it; else when to offer it again, or the fault if it never will be taken.
static bool emitted(uint32_t *retry_ms, fault *err) {
    static char names[REGISTERS_MAX][8];
    static moorline_edge_types_reading_t readings[REGISTERS_MAX];
    for (unsigned i = 0; i < configuration.count; i++) {
        snprintf(names[i], sizeof names[i], "r%u", configuration.address + i);
        readings[i] = (moorline_edge_types_reading_t){
            .value = {.tag = MOORLINE_EDGE_TYPES_VALUE_INTEGER, .val.integer = registers[i]},
            .quality = MOORLINE_EDGE_TYPES_QUALITY_GOOD,
            .timestamp = {.is_some = false},
        };
        connector_string_set(&readings[i].key, names[i]);
    }
    moorline_edge_types_device_readings_t of_device = {.readings = {.ptr = readings, .len = configuration.count}};
    connector_string_set(&of_device.device, configuration.device);
    moorline_edge_telemetry_list_device_readings_t batch = {.ptr = &of_device, .len = 1};
    moorline_edge_telemetry_emit_error_t refusal;
    if (moorline_edge_telemetry_emit(&batch, &refusal)) return true;
    if (refusal.tag == MOORLINE_EDGE_TELEMETRY_EMIT_ERROR_BACK_PRESSURE) {
        *retry_ms = refusal.val.back_pressure;
    } else {
        *err = (fault){.tag = MOORLINE_EDGE_TYPES_FAULT_INTERNAL, .val.internal = refusal.val.refused};
    }
    return false;
}

static bool poll(exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    if (!announced) {
        connector_string_t device, profile;
        moorline_edge_devices_emit_error_t refusal;
        connector_string_set(&device, configuration.device);
        connector_string_set(&profile, "");
        announced = moorline_edge_devices_connected(&device, &profile, &refusal);
        if (!announced) moorline_edge_devices_emit_error_free(&refusal);
    }
    if (!has_unsent) {
        uint8_t request[REQUEST_BYTES];
        encode_read(request, ++transaction, &configuration);
        const char *wrong = ask(request, registers);
        if (wrong) return fail(err, MOORLINE_EDGE_TYPES_FAULT_DEVICE, wrong);
        has_unsent = true;
    }
    uint32_t retry_ms = 0;
    bool taken = emitted(&retry_ms, err);
    if (retry_ms > 0) return wake_after(ret, retry_ms);
    has_unsent = false;
    if (!taken) return false;
    return wake_after(ret, configuration.poll_ms);
}

// Writes the register that the request names; gives back what went wrong, or NULL.
static const char *write_register(const connector_string_t *params) {
    unsigned address = 0, value = 0;
    bool has_address = false, has_value = false;
    json_object object = json_open((const char *)params->ptr, params->len);
    json_member member;
    json_step step;
    while ((step = json_next(&object, &member)) == JSON_MEMBER) {
        has_address |= strcmp(member.name, "address") == 0 && json_whole(&member, 0, 65535, &address);
        has_value |= strcmp(member.name, "value") == 0 && json_whole(&member, 0, 65535, &value);
    }
    if (step == JSON_BAD || !has_address || !has_value) return "params are {address, value}, each from 0 to 65535";
    uint8_t request[REQUEST_BYTES];
    encode_write(request, ++transaction, &configuration, address, value);
    return ask(request, NULL);
}

static void answer(exports_moorline_edge_connector_guest_rpc_request_t *request) {
    const char *wrong = "the method is not write";
    if (request->method.len == 5 && memcmp(request->method.ptr, "write", 5) == 0) wrong = write_register(&request->params);
    char body[160] = "{\"success\":true}";
    if (wrong) snprintf(body, sizeof body, "{\"success\":false,\"error\":\"%s\"}", wrong);
    connector_string_t text;
    connector_string_set(&text, body);
    moorline_edge_rpc_emit_error_t refusal;
    if (!moorline_edge_rpc_reply(request->id, &text, &refusal)) {
        moorline_edge_rpc_emit_error_free(&refusal);
        log_line(MOORLINE_EDGE_LOG_LEVEL_WARN, "an answer is not taken");
    }
}

// What the generation before left; gives back what is wrong with it, or NULL.
static const char *take_over(const exports_moorline_edge_connector_guest_hand_over_t *hand_over) {
    const uint8_t *bytes = hand_over->bytes.ptr;
    size_t length = hand_over->bytes.len;
    if (hand_over->schema != HAND_OVER_SCHEMA) return "its schema is not 1";
    if (length < HAND_OVER_HEAD || bytes[2] > 1) return "its bytes are not of this plugin";
    size_t count = (length - HAND_OVER_HEAD) / 2;
    if (bytes[2] ? length != HAND_OVER_HEAD + count * 2 || count == 0 || count > REGISTERS_MAX : length != HAND_OVER_HEAD) {
        return "its bytes are not of this plugin";
    }
    transaction = (uint16_t)(bytes[0] << 8 | bytes[1]);
    // Another configuration has other registers: those are read anew.
    has_unsent = bytes[2] && count == configuration.count;
    for (size_t i = 0; has_unsent && i < count; i++) {
        const uint8_t *at = bytes + HAND_OVER_HEAD + i * 2;
        registers[i] = (uint16_t)(at[0] << 8 | at[1]);
    }
    return NULL;
}

void exports_moorline_edge_connector_guest_describe(exports_moorline_edge_connector_guest_description_t *ret) {
    connector_string_dup(&ret->name, "modbus-registers");
    connector_string_dup(&ret->version, "0.1.0");
    connector_string_dup(&ret->configuration_schema, SCHEMA);
    ret->hand_over_schema = HAND_OVER_SCHEMA;
}

static bool started(exports_moorline_edge_connector_guest_setup_t *setup, exports_moorline_edge_connector_guest_wake_t *ret,
                    fault *err) {
    const char *wrong = settings_parse((const char *)setup->configuration.ptr, setup->configuration.len, &configuration);
    if (wrong) return fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, wrong);
    if (setup->granted_streams.len != 1) {
        return fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, "one [[connector.connection]] with a stream is needed");
    }
    const connector_string_t *name = setup->granted_streams.ptr;
    connector_string_dup_n(&stream_name, (const char *)name->ptr, name->len);
    wrong = setup->hand_over.is_some ? take_over(&setup->hand_over.val) : NULL;
    if (wrong) return fail(err, MOORLINE_EDGE_TYPES_FAULT_HAND_OVER, wrong);
    return wake_after(ret, 0);
}

bool exports_moorline_edge_connector_guest_start(exports_moorline_edge_connector_guest_setup_t *setup,
                                                 exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    bool ok = started(setup, ret, err);
    exports_moorline_edge_connector_guest_setup_free(setup);
    return ok;
}

bool exports_moorline_edge_connector_guest_handle(exports_moorline_edge_connector_guest_event_t *event,
                                                  exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    bool ok = true;
    // Leaves the timer as it is.
    ret->is_some = false;
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_TIMER) ok = poll(ret, err);
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_RPC) answer(&event->val.rpc);
    exports_moorline_edge_connector_guest_event_free(event);
    return ok;
}

void exports_moorline_edge_connector_guest_stop(exports_moorline_edge_connector_guest_hand_over_t *ret) {
    size_t count = has_unsent ? configuration.count : 0;
    uint8_t *bytes = malloc(HAND_OVER_HEAD + count * 2);
    if (!bytes) abort();
    bytes[0] = (uint8_t)(transaction >> 8);
    bytes[1] = (uint8_t)transaction;
    bytes[2] = has_unsent;
    for (size_t i = 0; i < count; i++) {
        bytes[HAND_OVER_HEAD + i * 2] = (uint8_t)(registers[i] >> 8);
        bytes[HAND_OVER_HEAD + i * 2 + 1] = (uint8_t)registers[i];
    }
    ret->schema = HAND_OVER_SCHEMA;
    ret->bytes = (connector_list_u8_t){.ptr = bytes, .len = HAND_OVER_HEAD + count * 2};
}
