//! What a snapshots operation fails with: containerd tells these apart by their gRPC code, so they are
//! finer than [`crate::Kind`].

use crate::error::{Error, Kind};

/// Result of a snapshots operation.
pub type Result<T, E = SnapshotError> = std::result::Result<T, E>;

/// Why a snapshots operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The key or name is taken; of a remote layer: it is there, download nothing.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// There is no such snapshot.
    #[error("{0}: not found")]
    NotFound(String),
    /// The snapshot is there but not in a state for this.
    #[error("{0}: failed precondition")]
    FailedPrecondition(String),
    /// The request makes no sense.
    #[error("{0}: invalid argument")]
    InvalidArgument(String),
    /// Something below failed.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<SnapshotError> for tonic::Status {
    fn from(error: SnapshotError) -> Self {
        let text = error.to_string();
        match error {
            SnapshotError::AlreadyExists(_) => tonic::Status::already_exists(text),
            SnapshotError::NotFound(_) => tonic::Status::not_found(text),
            SnapshotError::FailedPrecondition(_) => tonic::Status::failed_precondition(text),
            SnapshotError::InvalidArgument(_) => tonic::Status::invalid_argument(text),
            SnapshotError::Other(error) => status(&error),
        }
    }
}

/// The hint travels with the message: containerd's client shows nothing else.
fn status(error: &Error) -> tonic::Status {
    let text = match error.hint() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    };
    match error.kind() {
        Kind::Unavailable | Kind::Busy => tonic::Status::unavailable(text),
        Kind::Denied => tonic::Status::permission_denied(text),
        Kind::Invalid => tonic::Status::invalid_argument(text),
        Kind::Corrupt => tonic::Status::data_loss(text),
        // Not `NotFound` and not `Unimplemented`: containerd takes those for news about the snapshot
        // or the method, and this is about the image.
        Kind::NotFound | Kind::Unsupported => tonic::Status::failed_precondition(text),
        Kind::Io | Kind::Internal => tonic::Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn codes_are_what_containerd_expects() {
        let table = [
            (
                SnapshotError::AlreadyExists("a".into()),
                Code::AlreadyExists,
            ),
            (SnapshotError::NotFound("a".into()), Code::NotFound),
            (
                SnapshotError::FailedPrecondition("a".into()),
                Code::FailedPrecondition,
            ),
            (
                SnapshotError::InvalidArgument("a".into()),
                Code::InvalidArgument,
            ),
            (Error::denied("a").into(), Code::PermissionDenied),
            (Error::unavailable("a").into(), Code::Unavailable),
            (Error::corrupt("a").into(), Code::DataLoss),
            (Error::not_found("a").into(), Code::FailedPrecondition),
            (Error::unsupported("a").into(), Code::FailedPrecondition),
        ];
        for (error, code) in table {
            let text = error.to_string();
            assert_eq!(tonic::Status::from(error).code(), code, "{text}");
        }
    }

    #[test]
    fn the_hint_reaches_the_user() {
        let error = Error::denied("image a/b").with_hint("sign it");
        let status = tonic::Status::from(SnapshotError::from(error));
        assert_eq!(status.message(), "image a/b (hint: sign it)");
    }
}
