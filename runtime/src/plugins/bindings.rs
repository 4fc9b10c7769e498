//! What `wit/` becomes in Rust. Generated: everything else in this room imports from here.

pub(crate) mod connector {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "connector",
        imports: {
            "moorline:edge/telemetry.emit": async,
            "moorline:edge/series.emit": async,
            "moorline:edge/devices.connected": async,
            "moorline:edge/devices.disconnected": async,
            "moorline:edge/devices.attributes": async,
            "moorline:edge/rpc.reply": async,
            "moorline:edge/streams.open": async,
            "moorline:edge/streams.write": async,
            "moorline:edge/streams.exchange": async,
            "moorline:edge/streams.close": async,
        },
        exports: { default: async },
    });
}

pub(crate) mod policy {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "reconnect-policy",
    });
}
