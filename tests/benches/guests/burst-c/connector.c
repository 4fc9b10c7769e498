// For benches: emits on demand, as fast as it can. Does what `burst-connector` does, in C.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connector.h"

#define READINGS_MAX 1024
#define CALLS_A_TURN 1000

typedef exports_moorline_edge_connector_guest_fault_t fault;

static connector_string_t device;
// What a flood has still to emit: readings of a batch, batches; whether by series.
static unsigned size, left;
static bool by_series;

static moorline_edge_types_reading_t readings[READINGS_MAX];
static moorline_edge_series_series_id_t series[READINGS_MAX];
static double values[READINGS_MAX];

static bool fail(fault *err, uint8_t whose, const char *words) {
    err->tag = whose;
    // All cases hold one text, at the same place.
    connector_string_dup(&err->val.device, words);
    return false;
}

static char names[READINGS_MAX][16];
static moorline_edge_types_device_readings_t of_device;

// The batch lies in memory that the next one uses again.
static moorline_edge_telemetry_list_device_readings_t make(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "key-%u", i);
        readings[i] = (moorline_edge_types_reading_t){
            .value = {.tag = MOORLINE_EDGE_TYPES_VALUE_DOUBLE, .val.double_ = i},
            .quality = MOORLINE_EDGE_TYPES_QUALITY_GOOD,
            .timestamp = {.is_some = false},
        };
        connector_string_set(&readings[i].key, names[i]);
    }
    of_device.device = device;
    of_device.readings.ptr = readings;
    of_device.readings.len = count;
    return (moorline_edge_telemetry_list_device_readings_t){.ptr = &of_device, .len = 1};
}

static bool is(const connector_string_t *text, const char *words) {
    return text->len == strlen(words) && memcmp(text->ptr, words, text->len) == 0;
}

static bool parameters(const connector_string_t *params, unsigned *count, unsigned *calls) {
    char text[64] = {0};
    if (params->len >= sizeof text) return false;
    memcpy(text, params->ptr, params->len);
    return sscanf(text, " [%u ,%u ]", count, calls) == 2 && *count <= READINGS_MAX;
}

static bool burst(exports_moorline_edge_connector_guest_rpc_request_t *request, fault *err) {
    unsigned count, calls, taken = 0, refused = 0;
    if (!parameters(&request->params, &count, &calls)) {
        return fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, "params are [BATCH,CALLS]");
    }
    moorline_edge_telemetry_list_device_readings_t batch = make(count);
    double start = moorline_edge_clock_monotonic_ms();
    for (unsigned call = 0; call < calls; call++) {
        moorline_edge_telemetry_emit_error_t refusal;
        if (moorline_edge_telemetry_emit(&batch, &refusal)) {
            taken++;
        } else {
            refused++;
            moorline_edge_telemetry_emit_error_free(&refusal);
        }
    }
    double took_us = (moorline_edge_clock_monotonic_ms() - start) * 1000.0;
    char body[80];
    snprintf(body, sizeof body, "[%u,%u,%.0f]", taken, refused, took_us);
    connector_string_t text;
    connector_string_set(&text, body);
    moorline_edge_rpc_emit_error_t refusal;
    if (moorline_edge_rpc_reply(request->id, &text, &refusal)) return true;
    moorline_edge_rpc_emit_error_free(&refusal);
    return fail(err, MOORLINE_EDGE_TYPES_FAULT_INTERNAL, "the answer is not taken");
}

static bool wake_after(exports_moorline_edge_connector_guest_wake_t *ret, uint32_t ms) {
    *ret = (exports_moorline_edge_connector_guest_wake_t){.is_some = true, .val = ms};
    return true;
}

// The batch of a flood with new values.
static bool emit(moorline_edge_telemetry_list_device_readings_t *batch, moorline_edge_telemetry_emit_error_t *refusal) {
    if (by_series) {
        for (unsigned i = 0; i < size; i++) values[i] = left + i;
        moorline_edge_series_list_series_id_t ids = {.ptr = series, .len = size};
        connector_list_f64_t numbers = {.ptr = values, .len = size};
        moorline_edge_series_list_timestamp_ms_t by_the_host = {.ptr = NULL, .len = 0};
        return moorline_edge_series_emit(&ids, &numbers, &by_the_host, refusal);
    }
    for (unsigned i = 0; i < size; i++) readings[i].value.val.double_ = left + i;
    return moorline_edge_telemetry_emit(batch, refusal);
}

static bool open_series(fault *err) {
    for (unsigned i = 0; i < size; i++) {
        connector_string_t key;
        connector_string_set(&key, names[i]);
        moorline_edge_series_emit_error_t refusal;
        if (!moorline_edge_series_open(&device, &key, &series[i], &refusal)) {
            moorline_edge_series_emit_error_free(&refusal);
            return fail(err, MOORLINE_EDGE_TYPES_FAULT_INTERNAL, "a series is refused");
        }
    }
    return true;
}

static bool flood(exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    moorline_edge_telemetry_list_device_readings_t batch = {.ptr = &of_device, .len = 1};
    for (unsigned call = 0; call < CALLS_A_TURN && left > 0; call++) {
        moorline_edge_telemetry_emit_error_t refusal;
        if (!emit(&batch, &refusal)) {
            bool behind = refusal.tag == MOORLINE_EDGE_TELEMETRY_EMIT_ERROR_BACK_PRESSURE;
            uint32_t retry_ms = behind ? refusal.val.back_pressure : 0;
            moorline_edge_telemetry_emit_error_free(&refusal);
            if (behind) return wake_after(ret, retry_ms);
            return fail(err, MOORLINE_EDGE_TYPES_FAULT_INTERNAL, "a batch is refused");
        }
        left--;
    }
    return left > 0 ? wake_after(ret, 0) : true;
}

void exports_moorline_edge_connector_guest_describe(exports_moorline_edge_connector_guest_description_t *ret) {
    connector_string_dup(&ret->name, "burst-c");
    connector_string_dup(&ret->version, "0.1.0");
    connector_string_dup(&ret->configuration_schema, "{}");
    ret->hand_over_schema = 1;
}

bool exports_moorline_edge_connector_guest_start(exports_moorline_edge_connector_guest_setup_t *setup,
                                                 exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    connector_string_dup_n(&device, (const char *)setup->instance.ptr, setup->instance.len);
    exports_moorline_edge_connector_guest_setup_free(setup);
    connector_string_t profile;
    connector_string_set(&profile, "");
    moorline_edge_devices_emit_error_t refusal;
    ret->is_some = false;
    // On a workbench there is nobody to tell.
    if (!moorline_edge_devices_connected(&device, &profile, &refusal)) moorline_edge_devices_emit_error_free(&refusal);
    (void)err;
    return true;
}

bool exports_moorline_edge_connector_guest_handle(exports_moorline_edge_connector_guest_event_t *event,
                                                  exports_moorline_edge_connector_guest_wake_t *ret, fault *err) {
    bool ok = true;
    // Leaves the timer as it is.
    ret->is_some = false;
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_TIMER) ok = flood(ret, err);
    if (event->tag == EXPORTS_MOORLINE_EDGE_CONNECTOR_GUEST_EVENT_RPC) {
        exports_moorline_edge_connector_guest_rpc_request_t *request = &event->val.rpc;
        by_series = is(&request->method, "flood-series");
        if (by_series || is(&request->method, "flood")) {
            ok = parameters(&request->params, &size, &left)
                     ? wake_after(ret, 0)
                     : fail(err, MOORLINE_EDGE_TYPES_FAULT_CONFIGURATION, "params are [BATCH,BATCHES]");
            make(size);
            if (ok && by_series) ok = open_series(err);
        } else {
            ok = burst(request, err);
        }
    }
    exports_moorline_edge_connector_guest_event_free(event);
    return ok;
}

void exports_moorline_edge_connector_guest_stop(exports_moorline_edge_connector_guest_hand_over_t *ret) {
    ret->schema = 1;
    ret->bytes = (connector_list_u8_t){.ptr = NULL, .len = 0};
}
