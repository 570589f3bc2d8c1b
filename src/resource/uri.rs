//! Places as configuration writes them: paths, `file://` and `kbs://`.

use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use url::Url;

use crate::error::{Error, Result};

/// A place that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Resource(Uri),
}

/// URI of a key broker's resource. Its host says nothing: which broker is asked is the hub's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    text: String,
    /// Where the path after the host's `/` begins and ends in `text`.
    path: (usize, usize),
    plugin: bool,
}

/// Longest URI; each part of one has some dozen characters.
const MAX_URI: usize = 1024;

// === impl Place ===

impl Place {
    /// Reads what is not a URI of these schemes as a path.
    pub(super) fn of(text: &Path) -> Result<Self> {
        let bytes = text.as_os_str().as_bytes();
        if bytes.starts_with(b"file://") {
            let url = text.to_str().and_then(|it| Url::parse(it).ok());
            let path = url
                .filter(|it| it.query().is_none() && it.fragment().is_none())
                .and_then(|it| it.to_file_path().ok());
            return path
                .map(Self::File)
                .ok_or_else(|| Error::invalid(format!("{}: want file:///PATH", text.display())));
        }
        let Some(scheme) = scheme(bytes).filter(|it| *it == b"kbs" || it.starts_with(b"kbs+"))
        else {
            return Ok(Self::File(OsStr::from_bytes(bytes).into()));
        };
        let plugin = scheme != b"kbs";
        let wrong = || {
            let found = text.display();
            Error::invalid(format!("{found}: want kbs:///REPOSITORY/TYPE/TAG"))
        };
        let uri = text.to_str().filter(|it| it.len() <= MAX_URI);
        Uri::parse(uri.ok_or_else(wrong)?, plugin)
            .map(Self::Resource)
            .ok_or_else(wrong)
    }
}

/// What is before `://`, if that could be a scheme.
fn scheme(bytes: &[u8]) -> Option<&[u8]> {
    let at = bytes.windows(3).position(|it| it == b"://")?;
    let scheme = &bytes[..at];
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
    scheme.iter().all(fits).then_some(scheme)
}

// === impl Uri ===

impl Uri {
    fn parse(text: &str, plugin: bool) -> Option<Self> {
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return None;
        }
        let host = text.find("://")? + 3;
        let start = host + text[host..].find('/')? + 1;
        let end = text[start..]
            .find(['?', '#'])
            .map_or(text.len(), |at| start + at);
        let parts: Vec<&str> = text[start..end].split('/').collect();
        let named = parts.iter().all(|it| !matches!(*it, "" | "." | ".."));
        // What a plugin takes is its own affair; a resource has three parts and nothing else.
        let fits = plugin || (parts.len() == 3 && end == text.len());
        (named && fits).then(|| Self {
            text: text.to_owned(),
            path: (start, end),
            plugin,
        })
    }

    /// The whole of it.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// `repository/type/tag`; `None` for what only a broker's plugin can answer.
    pub(super) fn resource(&self) -> Option<&str> {
        let (start, end) = self.path;
        (!self.plugin).then(|| &self.text[start..end])
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Place> {
        Place::of(Path::new(text))
    }

    #[test]
    fn paths_and_files() {
        for (text, path) in [
            ("/etc/policy.json", "/etc/policy.json"),
            ("policy.json", "policy.json"),
            ("kbs.json", "kbs.json"),
            ("kbs:/a", "kbs:/a"),
            ("https://host/a", "https://host/a"),
            ("file:///etc/a%20b", "/etc/a b"),
            ("file://localhost/etc/a", "/etc/a"),
        ] {
            assert_eq!(place(text).unwrap(), Place::File(path.into()), "{text}");
        }
        for bad in ["file://host/a", "file:///a?b", "file:///a#b"] {
            let error = place(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn resources() {
        let resource = |text: &str| match place(text).unwrap() {
            Place::Resource(uri) => {
                assert_eq!(uri.as_str(), text);
                uri.resource().map(ToOwned::to_owned)
            }
            Place::File(path) => panic!("{text} is the file {}", path.display()),
        };
        assert_eq!(resource("kbs:///a/b/c").unwrap(), "a/b/c");
        assert_eq!(
            resource("kbs://broker.example:8080/a/b/c").unwrap(),
            "a/b/c"
        );
        assert_eq!(resource("kbs+pkcs11:///wrap-key?id=1"), None);
        let long = format!("kbs:///a/b/{}", "c".repeat(MAX_URI));
        for bad in [
            "kbs://",
            "kbs://a/b",
            "kbs:///a/b",
            "kbs:///a/b/c/d",
            "kbs:///a//c",
            "kbs:///a/../c",
            "kbs:///a/b/c?d",
            "kbs:///a/b/c d",
            "kbs+plugin://host",
            &long,
        ] {
            let error = place(bad).unwrap_err();
            assert!(error.to_string().contains("want kbs:///"), "{error}");
        }
    }
}
