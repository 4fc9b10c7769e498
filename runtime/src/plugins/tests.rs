//! Real guests in a real host: see `tests/guests`. They are built once per test process, by the product's own
//! `plugin build`.

mod admin;
mod alarms;
mod cache;
mod confinement;
mod delivery;
mod directories;
mod first_start;
mod gateway;
mod grants;
mod guests;
mod limits;
mod many;
mod policy;
mod refusals;
mod report;
mod rollback;
mod starts;
mod state;
mod swap;
mod trust;
mod versions;
