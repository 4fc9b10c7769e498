//! Real guests in a real host: see `tests/guests`.
