//! The link: the whole managed relation to the broker, across connects.

pub mod cause;
pub mod policy;
