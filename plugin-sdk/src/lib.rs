//! Write Moorline connectors and reconnect policies in Rust.
