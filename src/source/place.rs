//! What a user names where images are made: everything that a reference can be, and files that
//! `docker save` writes and `docker load` reads.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    error::{Error, Result},
    oci::{Reference, RegistryReference},
};

/// Where an image is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a registry or a layout.
    Image(Reference),
    /// In a file: `docker-archive:FILE[:REFERENCE]`.
    Archive {
        /// The file.
        file: PathBuf,
        /// The image's name in it; may be left out if there is one image.
        name: Option<RegistryReference>,
    },
}

const ARCHIVE: &str = "docker-archive:";

// === impl Place ===

impl Place {
    /// Its name in a registry, if it has one.
    #[must_use]
    pub fn registry(&self) -> Option<&RegistryReference> {
        match self {
            Place::Image(Reference::Registry(reference)) => Some(reference),
            _ => None,
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix(ARCHIVE) else {
            return text.parse().map(Place::Image);
        };
        let (file, name) = match rest.split_once(':') {
            Some((file, name)) => (file, Some(name.parse::<RegistryReference>()?)),
            None => (rest, None),
        };
        if file.is_empty() {
            return Err(Error::invalid(format!(
                "{text:?}: want docker-archive:FILE[:REFERENCE]"
            )));
        }
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::invalid(format!(
                "{text:?}: an archive names images by tag, not by digest"
            )));
        }
        Ok(Place::Archive {
            file: file.into(),
            name,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Image(reference) => reference.fmt(f),
            Place::Archive { file, name } => {
                write!(f, "{ARCHIVE}{}", file.display())?;
                match name {
                    Some(name) => write!(f, ":{name}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_and_everything_else() {
        for (text, printed) in [
            ("docker-archive:a.tar", "docker-archive:a.tar"),
            (
                "docker-archive:/d/a.tar:app:1",
                "docker-archive:/d/a.tar:docker.io/library/app:1",
            ),
            (
                "docker-archive:a:r.example:5000/app",
                "docker-archive:a:r.example:5000/app:latest",
            ),
            ("oci:d:1", "oci:d:1"),
            ("r.example/a", "r.example/a:latest"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), printed);
        }
        let digest = format!("docker-archive:a:b@sha256:{}", "0".repeat(64));
        for bad in [
            "docker-archive:",
            "docker-archive::a",
            "docker-archive:a:",
            &digest,
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
