// A device behind TCP that is asked by a line and answers with one: polls it, emits what it says.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connector.h"
#include "device.h"

#define HAND_OVER_SCHEMA 1
#define TIMEOUT_MS 1000
#define SCHEMA \
    "{\"type\":\"object\",\"required\":[\"device\",\"poll_ms\"],\"additionalProperties\":false,\"properties\":{" \
    "\"device\":{\"type\":\"string\",\"minLength\":1},\"poll_ms\":{\"type\":\"integer\",\"minimum\":10}}}"

typedef exports_moorline_edge_connector_guest_fault_t fault;
typedef exports_moorline_edge_connector_guest_wake_t wake;

static settings configuration;
static connector_string_t stream_name;
typedef struct {
    bool is_some;
    double value;
} measurement;

// Read, and not yet taken by the host: handed over as these bytes.
static measurement unsent;
// What was read last.
static measurement last;

static bool fail(fault *err, uint8_t whose, const char *words) {
    err->tag = whose;
    // All cases hold one text, at the same place.
    connector_string_dup(&err->val.device, words);
    return false;
}

static bool wake_after(wake *ret, uint32_t ms) {
    *ret = (wake){.is_some = true, .val = ms};
    return true;
}

void exports_moorline_edge_connector_guest_describe(exports_moorline_edge_connector_guest_description_t *ret) {
    connector_string_dup(&ret->name, "{{name}}");
    connector_string_dup(&ret->version, "0.1.0");
    connector_string_dup(&ret->configuration_schema, SCHEMA);
    ret->hand_over_schema = HAND_OVER_SCHEMA;
}

static bool started(const exports_moorline_edge_connector_guest_setup_t *setup, wake *ret, fault *err) {
    const char *wrong = settings_parse((const char *)setup->configuration.ptr, setup->configuration.len, &configuration);
    if (wrong) return fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, wrong);
    if (setup->granted_streams.len == 0) {
        return fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, "a [[connector.connection]] with a stream is needed");
    }
    if (setup->hand_over.is_some) {
        const exports_moorline_edge_connector_guest_hand_over_t *old = &setup->hand_over.val;
        if (old->schema != HAND_OVER_SCHEMA || old->bytes.len != sizeof unsent || old->bytes.ptr[0] > 1) {
            return fail(err, MOORLINE_EDGE_TYPES_FAULT_HAND_OVER, "the bytes are not of this plugin");
        }
        memcpy(&unsent, old->bytes.ptr, sizeof unsent);
        last = unsent;
    }
    const connector_string_t *name = setup->granted_streams.ptr;
    connector_string_dup_n(&stream_name, (const char *)name->ptr, name->len);
    connector_string_t device, profile;
    moorline_edge_devices_emit_error_t refusal;
    connector_string_set(&device, configuration.device);
    connector_string_set(&profile, "");
    if (!moorline_edge_devices_connected(&device, &profile, &refusal)) moorline_edge_devices_emit_error_free(&refusal);
    // The first timer comes at once.
    return wake_after(ret, 0);
}

bool exports_moorline_edge_connector_guest_start(exports_moorline_edge_connector_guest_setup_t *setup, wake *ret, fault *err) {
    bool ok = started(setup, ret, err);
    exports_moorline_edge_connector_guest_setup_free(setup);
    return ok;
}

// Asks the device; false if it says nothing useful.
static bool ask(double *value) {
    uint32_t stream;
    moorline_edge_streams_stream_error_t error;
    uint8_t request[] = REQUEST, line_end[] = "\n";
    connector_list_u8_t sent = {.ptr = request, .len = sizeof request - 1}, answer;
    moorline_edge_streams_frame_rule_t rule = {
        .tag = MOORLINE_EDGE_STREAMS_FRAME_RULE_DELIMITED,
        .val.delimited = {.ptr = line_end, .len = 1},
    };
    // A closed stream is dialled again by open.
    if (!moorline_edge_streams_open(&stream_name, &stream, &error) ||
        !moorline_edge_streams_exchange(stream, &sent, &rule, TIMEOUT_MS, &answer, &error)) {
        moorline_edge_streams_stream_error_free(&error);
        return false;
    }
    bool ok = number_parse((const char *)answer.ptr, answer.len, value);
    connector_list_u8_free(&answer);
    return ok;
}

static bool poll(wake *ret, fault *err) {
    if (!unsent.is_some) {
        unsent.is_some = ask(&unsent.value);
        if (!unsent.is_some) return fail(err, MOORLINE_EDGE_TYPES_FAULT_DEVICE, "the device does not answer by a number");
        last = unsent;
    }
    moorline_edge_types_reading_t reading = {
        .value = {.tag = MOORLINE_EDGE_TYPES_VALUE_DOUBLE, .val.double_ = unsent.value},
        .quality = MOORLINE_EDGE_TYPES_QUALITY_GOOD,
    };
    connector_string_set(&reading.key, "value");
    moorline_edge_types_device_readings_t of_device = {.readings = {.ptr = &reading, .len = 1}};
    connector_string_set(&of_device.device, configuration.device);
    moorline_edge_telemetry_list_device_readings_t batch = {.ptr = &of_device, .len = 1};
    moorline_edge_telemetry_emit_error_t refusal;
    if (!moorline_edge_telemetry_emit(&batch, &refusal)) {
        // The same reading again, when the host says.
        if (refusal.tag == MOORLINE_EDGE_TELEMETRY_EMIT_ERROR_BACK_PRESSURE) return wake_after(ret, refusal.val.back_pressure);
        // It will never be taken: a mistake of this plugin, and its operator reads why.
        unsent.is_some = false;
        *err = (fault){.tag = MOORLINE_EDGE_TYPES_FAULT_INTERNAL, .val.internal = refusal.val.refused};
        return false;
    }
    unsent.is_some = false;
    return wake_after(ret, configuration.poll_ms);
}

bool exports_moorline_edge_connector_guest_handle(exports_moorline_edge_connector_guest_event_t *event, wake *ret, fault *err) {
    bool ok = true;
    // Leaves the timer as it is.
    ret->is_some = false;
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_TIMER) ok = poll(ret, err);
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_RPC) {
        char text[64] = "{\"last\":null}";
        if (last.is_some) snprintf(text, sizeof text, "{\"last\":%.9g}", last.value);
        connector_string_t body;
        moorline_edge_rpc_emit_error_t refusal;
        connector_string_set(&body, text);
        if (!moorline_edge_rpc_reply(event->val.rpc.id, &body, &refusal)) moorline_edge_rpc_emit_error_free(&refusal);
    }
    exports_moorline_edge_connector_guest_event_free(event);
    return ok;
}

void exports_moorline_edge_connector_guest_stop(exports_moorline_edge_connector_guest_hand_over_t *ret) {
    uint8_t *bytes = malloc(sizeof unsent);
    if (!bytes) abort();
    memcpy(bytes, &unsent, sizeof unsent);
    ret->schema = HAND_OVER_SCHEMA;
    ret->bytes = (connector_list_u8_t){.ptr = bytes, .len = sizeof unsent};
}
