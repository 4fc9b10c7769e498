//! Whose fault it is that files cannot be read or written: the medium's, or that of whoever chose the place.

use std::io::{self, ErrorKind};

/// Whether the medium is to blame: it may work again by itself, and a gateway goes on without it. Otherwise a person must
/// change the configuration or permissions.
pub(crate) fn is_at_fault(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::NotFound
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
    )
}
