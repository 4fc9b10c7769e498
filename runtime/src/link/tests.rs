//! The link against a broker that plays scripts on real loopback TCP, and against Mosquitto.

mod causes;
mod delivery;
mod mosquitto;
mod rig;
mod scripted;
mod tls;
