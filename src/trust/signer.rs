//! Who has to have signed: what a requirement holds a signature against.

use std::fmt;

use super::{
    key::PublicKey,
    sigstore::{Person, Pki, Rigour, TrustRoot},
};

/// Who has to have signed, any one of them.
#[derive(Clone, Debug)]
pub enum Signer {
    /// The holder of one of the keys.
    Keys {
        /// Any of them will do.
        keys: Vec<PublicKey>,
        /// A log that must have taken the signature up.
        log: Option<Log>,
    },
    /// A person (or workflow) that a Fulcio authority gave a certificate (`fulcio`,
    /// `nacreKeyless`).
    Person {
        /// Who.
        person: Person,
        /// Authorities and logs.
        log: Log,
    },
    /// The holder of a certificate by an authority of one's own.
    Pki(Pki),
}

/// Logs, and authorities, that have to vouch for a signature.
#[derive(Clone, Debug)]
pub struct Log {
    /// Whom to believe.
    pub root: TrustRoot,
    /// How much they must prove.
    pub rigour: Rigour,
}

/// What `check` says of the first key that it takes.
///
/// # Errors
/// Why it takes none, each key named.
pub(super) fn by_any<T>(
    keys: &[PublicKey],
    check: impl Fn(&PublicKey) -> Result<T, String>,
) -> Result<T, String> {
    let mut reasons: Vec<String> = Vec::new();
    for key in keys {
        match check(key) {
            Ok(checked) => return Ok(checked),
            Err(why) => reasons.push(format!("key {}: {why}", key.origin())),
        }
    }
    Err(reasons.join(", "))
}

// === impl Signer ===

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signer::Keys { keys, log } => {
                for (n, key) in keys.iter().enumerate() {
                    let separator = if n == 0 { "" } else { " or " };
                    write!(f, "{separator}{} ({})", key.fingerprint(), key.origin())?;
                }
                match log {
                    Some(log) => write!(f, ", {log}"),
                    None => Ok(()),
                }
            }
            Signer::Person { person, log } => {
                write!(f, "{person}, {log}")?;
                match log.rigour.no_sct {
                    true => f.write_str(", no SCT asked for"),
                    false => Ok(()),
                }
            }
            Signer::Pki(pki) => pki.fmt(f),
        }
    }
}

// === impl Log ===

impl Log {
    /// What a bundle must prove: one that is attached as a bundle can bring a proof, and a missing
    /// one may have been taken out by saying that the bundle is of the first version, which nobody
    /// signs.
    pub(crate) fn rigour_of_bundles(&self) -> Rigour {
        Rigour {
            inclusion_proof: true,
            ..self.rigour
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.rigour.inclusion_proof {
            true => "proven by the log",
            false => "entered in the log",
        };
        write!(f, "{what} ({})", self.root.origin())
    }
}
