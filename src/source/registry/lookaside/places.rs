//! `registries.d`: YAML files that say where the signatures of which images lie.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};
use url::Url;

use crate::{
    error::{Error, Result},
    oci::RegistryReference,
    resource::{self, Resources},
};

/// Where lookasides are configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookasidePlaces {
    /// Directory of YAML files, which need not be there; or one such file, or a resource, by its URI.
    pub directory: PathBuf,
    /// The lookaside where none is configured.
    pub fallback: Option<PathBuf>,
}

/// What the files say together.
#[derive(Debug, Default)]
struct Configured {
    default: Option<Said>,
    scopes: BTreeMap<String, Said>,
}

/// One scope's lookaside and the file that names it.
#[derive(Debug)]
struct Said {
    read: Option<String>,
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    default_docker: Option<Scope>,
    docker: Option<BTreeMap<String, Option<Scope>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Scope {
    lookaside: Option<String>,
    /// The former name.
    sigstore: Option<String>,
    // For who writes signatures, and for cosign's, which are looked for in any case if the policy
    // wants them.
    #[serde(rename = "lookaside-staging")]
    _lookaside_staging: Option<IgnoredAny>,
    #[serde(rename = "sigstore-staging")]
    _sigstore_staging: Option<IgnoredAny>,
    #[serde(rename = "use-sigstore-attachments")]
    _use_sigstore_attachments: Option<IgnoredAny>,
}

/// Largest file; real ones have some hundred bytes.
const MAX_FILE: usize = 1 << 20;
/// Most files.
const MAX_FILES: usize = 1024;
/// Where podman and skopeo write signatures if nobody says where.
const ROOTS_FALLBACK: &str = "/var/lib/containers/sigstore";

// === impl LookasidePlaces ===

impl LookasidePlaces {
    /// What podman and skopeo use: the user's directory if it is there, else the system's; and the
    /// lookaside of who has configured none.
    #[must_use]
    pub fn usual(home: Option<&Path>, root: bool) -> Self {
        let own = home.map(|home| home.join(".config/containers/registries.d"));
        let fallback = match root {
            true => Some(ROOTS_FALLBACK.into()),
            false => home.map(|home| home.join(".local/share/containers/sigstore")),
        };
        Self {
            directory: own
                .filter(|it| it.is_dir())
                .unwrap_or_else(|| "/etc/containers/registries.d".into()),
            fallback,
        }
    }

    /// The lookaside of an image: the most specific scope that names one. The files are read each
    /// time.
    ///
    /// # Errors
    /// `Invalid`, naming the file, if one is malformed or two say something about the same scope;
    /// `Io` if one cannot be read.
    pub(super) fn of(
        &self,
        reference: &RegistryReference,
        resources: &Resources,
    ) -> Result<Option<Url>> {
        let configured = self.load(resources)?;
        let scopes = reference.scopes();
        let named = scopes.iter().filter_map(|it| configured.scopes.get(it));
        let said = named
            .chain(&configured.default)
            .find_map(|it| it.read.as_ref().map(|url| (url, &it.file)));
        let Some((text, file)) = said else {
            return Ok(self
                .fallback
                .as_ref()
                .and_then(|it| Url::from_directory_path(it).ok()));
        };
        let malformed = || {
            let (file, hint) = (file.display(), "want file:///..., http:// or https://");
            Error::invalid(format!("{file}: lookaside {text:?}: not a URL")).with_hint(hint)
        };
        let url = Url::parse(text).map_err(|_| malformed())?;
        match (url.scheme(), url.host_str()) {
            ("file", None | Some("" | "localhost")) | ("http" | "https", Some(_)) => Ok(Some(url)),
            _ => Err(malformed()),
        }
    }

    fn load(&self, resources: &Resources) -> Result<Configured> {
        let place = resource::local(&self.directory)?;
        let Some(place) = place.filter(|it| !it.is_file()) else {
            let mut all = Configured::default();
            all.read(&self.directory, resources)?;
            return Ok(all);
        };
        let directory = place.display().to_string();
        let entries = match std::fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Configured::default());
            }
            Err(error) => return Err(Error::io(directory, error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Error::io(directory.clone(), e))?.path();
            if path.extension().is_some_and(|it| it == "yaml") {
                files.push(path);
            }
        }
        if files.len() > MAX_FILES {
            let count = files.len();
            return Err(Error::invalid(format!(
                "{directory}: {count} files, want at most {MAX_FILES}"
            )));
        }
        files.sort();
        let mut all = Configured::default();
        for file in files {
            all.read(&file, resources)?;
        }
        Ok(all)
    }
}

/// Reads one file; one that says nothing is good, too.
fn parse(text: &str) -> Result<File, String> {
    let says = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    if !text.lines().any(says) {
        return Ok(File {
            default_docker: None,
            docker: None,
        });
    }
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

// === impl Configured ===

impl Configured {
    fn read(&mut self, file: &Path, resources: &Resources) -> Result<()> {
        let malformed = |why: String| Error::invalid(format!("{}: {why}", file.display()));
        let bytes = resources.read(file, MAX_FILE)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed("not text".into()))?;
        self.add(parse(text).map_err(malformed)?, file)
    }

    fn add(&mut self, parsed: File, file: &Path) -> Result<()> {
        let twice = |what: &str, other: &Path| {
            let (file, other) = (file.display(), other.display());
            Error::invalid(format!("{file}: {what} is in {other}, too"))
        };
        if let Some(scope) = parsed.default_docker {
            if let Some(there) = &self.default {
                return Err(twice("default-docker", &there.file));
            }
            self.default = Some(Said::of(scope, file));
        }
        for (name, scope) in parsed.docker.unwrap_or_default() {
            if let Some(there) = self.scopes.get(&name) {
                return Err(twice(&format!("{name:?}"), &there.file));
            }
            if let Some(scope) = scope {
                self.scopes.insert(name, Said::of(scope, file));
            }
        }
        Ok(())
    }
}

// === impl Said ===

impl Said {
    fn of(scope: Scope, file: &Path) -> Self {
        Self {
            read: scope
                .lookaside
                .or(scope.sigstore)
                .filter(|it| !it.is_empty()),
            file: file.to_owned(),
        }
    }
}
