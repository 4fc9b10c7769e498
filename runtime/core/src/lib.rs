//! The pure half of Moorline.
//!
//! Every machine here obeys one rule: **mutate, drain, mutate**. `handle(now, input)` or `handle_timeout(now)` changes
//! the state; then `poll_output()` is drained to `None`; then `poll_timeout()` says when to come back and why. The core
//! contains no networking, no files, no threads and never reads a clock: time is an argument.
//!
//! ```text
//!  reading:     instance ─► report ─► message::Uplink ─► spool ─► thingsboard (encode) ─► link::window ─► broker
//!  downlink:    broker ─► thingsboard (decode) ─► message::Downlink ─► route ─► instance
//!  disconnect:  driver ─► link::cause::Disconnect ─► link ─► Consult(Question) ─► policy ─► Decision ─► clamp ─► wait
//!  swap:        watch ─► swap ─► compile, check, warm ─► cut over ─► drain
//! ```

pub mod confine;
pub mod doctor;
pub mod fleet;
pub mod host;
pub mod identity;
pub mod inbox;

pub mod link;
pub mod message;
pub mod mqtt_frame;
pub mod network;
pub mod plugin_state;
pub mod report;
pub mod route;
pub mod spool;
pub mod swap;
pub mod thingsboard;
pub mod time;
pub mod trust;
pub mod wear;
