//! What a plugin may use and reach, decided without a clock or a socket: limits and their names, pacing, the circuit that
//! opens after repeated failures, and what is granted.
//!
//! ```text
//!  emit, devices, rpc.reply ─► Bucket ──► back-pressure           a limit that is exceeded ─► Hits ─► log, status
//!  log, stdout              ─► Bucket ──► held back, counted
//!  streams                  ─► Bucket ──► the call waits
//!  CPU time of each call    ─► CpuShare ► the next call waits
//!  files and directories    ─► Quota ───► no room
//!  memory, tables, deadline ────────────► the guest ends ─► Restart ─► back-off, open circuit
//! ```

mod bucket;
mod cpu;
mod grants;
mod limit;
mod origin;
mod quota;
mod restart;

pub use bucket::Bucket;
pub use cpu::{CpuShare, WINDOW as CPU_WINDOW};
pub use grants::{BadTarget, PortRange, TcpGrant};
pub use limit::{Exceeded, Hits, Limit};
pub use origin::{BadOrigin, Origin};
pub use quota::{Quota, Used};
pub use restart::{Restart, Verdict};
