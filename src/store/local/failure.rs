//! What the errors of the file system mean to the caller.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::store::{StoreError, StoreErrorKind};

/// Whether there is no such file.
pub(super) fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(super) fn failure(action: &str, path: &Path, error: &io::Error) -> StoreError {
    let (kind, hint) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (StoreErrorKind::NotFound, None),
        ErrorKind::PermissionDenied => {
            (StoreErrorKind::AccessDenied, Some("check the permissions of it and of the directories above it"))
        }
        ErrorKind::ReadOnlyFilesystem => (StoreErrorKind::AccessDenied, Some("the file system is mounted read-only")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (StoreErrorKind::Refused, Some("free some space there")),
        ErrorKind::InvalidFilename => (StoreErrorKind::Refused, Some("a part of the name is longer than 255 bytes")),
        _ => (kind_by_errno(action, error), None),
    };
    StoreError {
        kind,
        message: format!("failed to {action} {}: {error}", path.display()),
        hint: hint.map(ToOwned::to_owned),
    }
}

/// If a disk or file server does not return a file, that file is unreadable. If a server does not answer, or this machine is
/// short of a resource, it is an outage.
fn kind_by_errno(action: &str, error: &io::Error) -> StoreErrorKind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(
            Errno::TIMEDOUT
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NOTCONN
            | Errno::CONNRESET
            | Errno::CONNABORTED
            | Errno::CONNREFUSED
            | Errno::SHUTDOWN
            | Errno::AGAIN
            | Errno::BUSY
            | Errno::INTR
            | Errno::NOLCK
            | Errno::NOMEM
            | Errno::NFILE
            | Errno::MFILE,
        ) => StoreErrorKind::Transient,
        // One file is at fault if it is read. If a file is written, the disk or the mount is, and it may recover.
        Some(_) if action == "read" => StoreErrorKind::Unreadable,
        Some(Errno::IO | Errno::STALE) => StoreErrorKind::Transient,
        _ => StoreErrorKind::Refused,
    }
}
