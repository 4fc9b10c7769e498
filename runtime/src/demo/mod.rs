//! `moorline demo`: the whole story on one machine, and the proof that nothing was lost.

pub mod audit;
pub mod broker;
pub mod device;
mod embedded;
pub mod part;
