//! Moorline: the host process.
