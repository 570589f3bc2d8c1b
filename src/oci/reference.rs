//! What a user names: `registry/repository[:tag][@digest]`, or `oci:DIRECTORY[:TAG]`.
//!
//! Registry references follow the grammar of the distribution project's `reference` package and its
//! defaults: no host means `docker.io`, one path component there means `library/…`, no tag and no
//! digest means `latest`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::Digest;
use crate::error::{Error, Result};

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// In a registry.
    Registry(RegistryReference),
    /// In an OCI image layout directory.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// `org.opencontainers.image.ref.name` or a digest; may be left out if there is one image.
        name: Option<Location>,
    },
}

/// A name inside one repository or layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A tag, which can move.
    Tag(String),
    /// A digest, which cannot.
    Digest(Digest),
}

/// `host[:port]/path[:tag][@digest]` with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Longest repository name, host included (distribution's limit).
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

// === impl Reference ===

impl Reference {
    /// The same image by digest: it cannot become another.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Self {
        match self {
            Reference::Registry(reference) => {
                Reference::Registry(reference.with_digest(digest.clone()))
            }
            Reference::Layout { directory, .. } => Reference::Layout {
                directory: directory.clone(),
                name: Some(Location::Digest(digest.clone())),
            },
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix("oci:") else {
            return text
                .strip_prefix("docker://")
                .unwrap_or(text)
                .parse()
                .map(Reference::Registry);
        };
        // A digest contains a colon itself, so it is looked for first.
        let (directory, name) = match rest.split_once('@') {
            Some((directory, digest)) => (directory, Some(Location::Digest(digest.parse()?))),
            None => match rest.rsplit_once(':') {
                Some((directory, tag)) if !tag.contains('/') => {
                    (directory, Some(Location::Tag(tag.to_owned())))
                }
                _ => (rest, None),
            },
        };
        if directory.is_empty() || matches!(&name, Some(Location::Tag(tag)) if tag.is_empty()) {
            return Err(Error::invalid(format!(
                "reference {text:?}: want oci:DIRECTORY[:TAG]"
            )));
        }
        Ok(Reference::Layout {
            directory: directory.into(),
            name,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A registry of that name must not read as a layout.
            Reference::Registry(reference) if reference.host.starts_with("oci:") => {
                write!(f, "docker://{reference}")
            }
            Reference::Registry(reference) => reference.fmt(f),
            Reference::Layout { directory, name } => {
                write!(f, "oci:{}", directory.display())?;
                match name {
                    Some(Location::Tag(tag)) => write!(f, ":{tag}"),
                    Some(Location::Digest(digest)) => write!(f, "@{digest}"),
                    None => Ok(()),
                }
            }
        }
    }
}

// === impl Location ===

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Tag(tag) => f.write_str(tag),
            Location::Digest(digest) => digest.fmt(f),
        }
    }
}

// === impl RegistryReference ===

impl RegistryReference {
    /// `host[:port]`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Repository path inside the registry, without the host.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag as written; `latest` if neither tag nor digest was.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins it.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `host/path`, what policies call the repository.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    #[must_use]
    pub fn location(&self) -> Location {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Location::Digest(digest.clone()),
            (None, Some(tag)) => Location::Tag(tag.clone()),
            (None, None) => Location::Tag("latest".into()),
        }
    }

    /// The same repository by another tag.
    #[must_use]
    pub fn with_tag(&self, tag: impl Into<String>) -> Self {
        Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        }
    }

    /// The same repository by digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl FromStr for RegistryReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("reference {text:?}: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad("the tag has characters that tags cannot have"));
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let host = if host == "index.docker.io" {
            "docker.io"
        } else {
            host
        };
        if path.is_empty() || !path.split('/').all(is_path_component) {
            return Err(bad(
                "want [host[:port]/]path[:tag][@digest], the path in lower case",
            ));
        }
        if host.len() + 1 + path.len() > MAX_NAME {
            return Err(bad("longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(ToOwned::to_owned),
        };
        Ok(Self {
            host: host.to_owned(),
            path,
            tag,
            digest,
        })
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a host if it could not be a path: it has a dot, a port, or is `localhost`.
fn is_host(text: &str) -> bool {
    let looks = text.contains(['.', ':'])
        || text == "localhost"
        || text.bytes().any(|b| b.is_ascii_uppercase());
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let name_is_good = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        }
    };
    looks && name_is_good && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_component(text: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_references_are_filled_in() {
        for (text, printed) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/x/y:z", "127.0.0.1:5000/x/y:z"),
            ("index.docker.io/library/q", "docker.io/library/q:latest"),
            ("docker://r.example/a:1", "r.example/a:1"),
            ("docker://oci:5000/a", "docker://oci:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), printed);
        }
        let digest = Digest::sha256(b"x");
        let pinned: RegistryReference = format!("r.example/a:1@{digest}").parse().unwrap();
        assert_eq!(pinned.location(), Location::Digest(digest));
        assert_eq!(pinned.tag(), Some("1"));
    }

    #[test]
    fn refuses_malformed_references() {
        for bad in [
            "",
            "r.example/",
            "r.example/A",
            "r.example/a:",
            "r.example/a:-",
            "r.example/a@sha256:0",
            "a//b",
            "docker://oci::a/b",
            "r.example:x/a",
            "[r.example]/a",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn layouts() {
        let name = |text: &str| match text.parse::<Reference>().unwrap() {
            Reference::Layout { directory, name } => (directory.display().to_string(), name),
            Reference::Registry(_) => panic!("a layout"),
        };
        assert_eq!(name("oci:/a/b"), ("/a/b".into(), None));
        assert_eq!(
            name("oci:/a/b:v1"),
            ("/a/b".into(), Some(Location::Tag("v1".into())))
        );
        let digest = Digest::sha256(b"");
        assert_eq!(
            name(&format!("oci:d@{digest}")),
            ("d".into(), Some(Location::Digest(digest)))
        );
        assert!("oci:".parse::<Reference>().is_err());
    }
}
