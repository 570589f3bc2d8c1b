//! The one public error: a kind that tells the caller what to do, a message that names the object.
//!
//! Modules keep small private error enums where they help; whatever crosses a module's border is an
//! [`Error`]. Edges map the kind once: EIO for FUSE, exit code for the command line
//! ([`Kind::exit_code`]).

use std::fmt;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The other side is away or slow: try again later.
    Unavailable,
    /// The policy, the registry or a missing key says no.
    Denied,
    /// The input (reference, policy file, configuration, image) is malformed: fix it.
    Invalid,
    /// The data is not what was signed or named by digest.
    Corrupt,
    /// The named object does not exist.
    NotFound,
    /// The object is in use.
    Busy,
    /// A well-formed input asks for something nacre does not do.
    Unsupported,
    /// A local resource failed (disk, memory, system call).
    Io,
    /// A defect in nacre: report it.
    Internal,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 9] = [
        Kind::Unavailable,
        Kind::Denied,
        Kind::Invalid,
        Kind::Corrupt,
        Kind::NotFound,
        Kind::Busy,
        Kind::Unsupported,
        Kind::Io,
        Kind::Internal,
    ];

    /// One word for logs and `--json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Unavailable => "unavailable",
            Kind::Denied => "denied",
            Kind::Invalid => "invalid",
            Kind::Corrupt => "corrupt",
            Kind::NotFound => "not-found",
            Kind::Busy => "busy",
            Kind::Unsupported => "unsupported",
            Kind::Io => "io",
            Kind::Internal => "internal",
        }
    }

    /// Exit code of the command line; documented in the README.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Invalid => 3,
            Kind::Denied => 4,
            Kind::Corrupt => 5,
            Kind::NotFound => 6,
            Kind::Unavailable => 7,
            Kind::Busy => 8,
            Kind::Unsupported => 9,
            Kind::Io => 10,
        }
    }
}

/// Result with nacre's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error that names the object, with a [`Kind`] for the caller and the cause below it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

// === impl Error ===

impl Error {
    /// An error of `kind`; `message` is lower case, without full stop, and names the object.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds what the user can do about it; the command line prints it on a line of its own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts this error below another message of the same kind (and keeps the hint).
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let hint = self.0.hint.clone();
        let mut outer = Self::new(self.0.kind, message).with_source(self);
        outer.0.hint = hint;
        outer
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message alone, without causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do, if there is more to say than the kind.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// [`Kind::Denied`].
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Kind::Denied, message)
    }

    /// [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// [`Kind::Io`] with the system's error as its cause.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(Kind::Io, message).with_source(source)
    }
}

impl fmt::Display for Error {
    /// The message followed by its causes, separated by `: `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.as_str())
    }
}

impl std::error::Error for Error {
    // `Display` already prints the causes; handing them out again would print them twice.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_kind_and_hint_and_names_both() {
        let error = Error::denied("layer 3")
            .with_hint("give a key")
            .context("image a/b");
        assert_eq!(error.kind(), Kind::Denied);
        assert_eq!(error.hint(), Some("give a key"));
        assert_eq!(error.to_string(), "image a/b: layer 3");
    }
}
