//! The link against a broker that plays scripts on real loopback TCP, and against Mosquitto.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it looks for; the rest is one case"
)]

mod canary;
mod causes;
mod dead_letters;
mod delivery;
mod downlinks;
mod endpoints;
mod hostile;
mod keep_alive;
mod limits;
mod mosquitto;
mod packet_size;
mod proxies;
mod qos;
mod resume;
mod rig;
mod scripted;
mod tls;
mod websocket;
