//! Which names of a policy file's scopes a reference is looked up under, most specific first.
//!
//! Follows containers-policy.json(5): only the first that the file has applies. Scopes are looked
//! up for the reference that was asked for, never for a mirror's.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Kind, Result},
    oci::{Location, Reference},
};

/// A transport of the policy file and the scopes to look for in it, most specific first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scopes {
    pub(crate) transport: &'static str,
    pub(crate) names: Vec<String>,
}

/// The scopes of `reference`.
///
/// A layout's directory is looked up as it is in the file system, symbolic links resolved.
pub(crate) fn of(reference: &Reference) -> Result<Scopes> {
    match reference {
        Reference::Registry(reference) => Ok(Scopes {
            transport: "docker",
            names: reference.scopes(),
        }),
        Reference::Layout { directory, name } => {
            let directory = resolve(directory)?;
            Ok(Scopes {
                transport: "oci",
                names: of_layout(&directory, name.as_ref()),
            })
        }
    }
}

/// The directory with the tag, the directory, its parents (not `/`), everything.
fn of_layout(directory: &Path, name: Option<&Location>) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(Location::Tag(tag)) = name {
        names.push(format!("{}:{tag}", directory.display()));
    }
    names.extend(
        directory
            .ancestors()
            .filter(|path| path.parent().is_some())
            .filter_map(|path| path.to_str().map(ToOwned::to_owned)),
    );
    names.push(String::new());
    names
}

fn resolve(directory: &Path) -> Result<PathBuf> {
    directory.canonicalize().map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Io,
        };
        Error::new(kind, format!("layout {}", directory.display())).with_source(error)
    })
}

/// Why a scope of a policy file can never match, if so.
pub(crate) fn refuse(transport: &str, scope: &str) -> Option<&'static str> {
    match transport {
        "docker" if scope.contains("://") => Some("want host/path, without a scheme"),
        "docker" if scope.ends_with('/') => Some("want no slash at the end"),
        "oci" if !scope.is_empty() && !is_clean(scope) => {
            Some("want an absolute directory, without . or .. and not / (\"\" means all)")
        }
        _ => None,
    }
}

fn is_clean(scope: &str) -> bool {
    scope.len() > 1
        && scope
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn registry_scopes_from_specific_to_general() {
        let digest = Digest::sha256(b"");
        for (reference, want) in [
            (
                "r.example.com:5000/a/b:v1".to_owned(),
                vec![
                    "r.example.com:5000/a/b:v1",
                    "r.example.com:5000/a/b",
                    "r.example.com:5000/a",
                    "r.example.com:5000",
                    "*.example.com",
                    "*.com",
                    "",
                ],
            ),
            (
                "busybox".to_owned(),
                vec![
                    "docker.io/library/busybox:latest",
                    "docker.io/library/busybox",
                    "docker.io/library",
                    "docker.io",
                    "*.io",
                    "",
                ],
            ),
            (
                "localhost/x".to_owned(),
                vec!["localhost/x:latest", "localhost/x", "localhost", ""],
            ),
            (
                format!("localhost/x:v1@{digest}"),
                vec![
                    "localhost/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                    "localhost/x",
                    "localhost",
                    "",
                ],
            ),
        ] {
            let scopes = of(&reference.parse().unwrap()).unwrap();
            assert_eq!(scopes.transport, "docker");
            assert_eq!(scopes.names, want);
        }
    }

    #[test]
    fn layout_scopes_follow_the_resolved_directory() {
        let tag = Location::Tag("v1".into());
        assert_eq!(
            of_layout(Path::new("/a/b"), Some(&tag)),
            ["/a/b:v1", "/a/b", "/a", ""]
        );
        assert_eq!(of_layout(Path::new("/a"), None), ["/a", ""]);

        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        let reference = format!("oci:{}/link", dir.path().display());
        let scopes = of(&reference.parse().unwrap()).unwrap();
        assert_eq!(
            scopes.names[0],
            real.canonicalize().unwrap().display().to_string()
        );
        let missing: Reference = "oci:/nonexistent/layout".parse().unwrap();
        assert_eq!(of(&missing).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn refuses_scopes_that_cannot_match() {
        for (transport, scope, ok) in [
            ("docker", "docker://r.example/a", false),
            ("docker", "r.example/a/", false),
            ("docker", "*.example", true),
            ("docker", "", true),
            ("oci", "", true),
            ("oci", "/a", true),
            ("oci", "/", false),
            ("oci", "a", false),
            ("oci", "/a/../b", false),
            ("oci", "/a/", false),
            ("dir", "anything", true),
        ] {
            assert_eq!(
                refuse(transport, scope).is_none(),
                ok,
                "{transport} {scope}"
            );
        }
    }
}
