//! Names of images: `[ref/REF/][stream/STREAM/]VERSION`, and the paths of the documents about them.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// What is looked for: a version of an image on a stream of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    reference: String,
    stream: String,
    version: String,
}

/// The two forms that documents have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One table and one file of measurements for everybody.
    V2,
    /// A map for each provider, a file of measurements for each.
    V1,
}

/// The branch that releases are from.
const RELEASES: &str = "-";
/// The stream that is meant if none is named.
const STABLE: &str = "stable";
/// Stands for the newest version of a stream.
const LATEST: &str = "latest";
const MAX_PART: usize = 128;

// === impl Name ===

impl Name {
    /// The branch; `-` for releases.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// What kind of build.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The version; `latest` until it has been looked up.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the version has to be looked up first.
    #[must_use]
    pub fn is_latest(&self) -> bool {
        self.version == LATEST
    }

    /// The same with a version.
    ///
    /// # Errors
    /// `Invalid` if it is none.
    pub fn with_version(&self, version: &str) -> Result<Self> {
        check_version(version).map_err(Error::invalid)?;
        Ok(Self {
            version: version.to_owned(),
            ..self.clone()
        })
    }

    /// Path of the lookup table.
    #[must_use]
    pub fn info_path(&self, form: Form) -> String {
        format!("{}/{}/image/info.json", self.base(form), self.version)
    }

    /// Path of the measurements; `provider` in lower case.
    #[must_use]
    pub fn measurements_path(&self, form: Form, provider: &str) -> String {
        let image = format!("{}/{}/image", self.base(form), self.version);
        match form {
            Form::V2 => format!("{image}/measurements.json"),
            Form::V1 => format!("{image}/csp/{provider}/measurements.json"),
        }
    }

    /// Path of the document that names the newest version.
    #[must_use]
    pub fn latest_path(&self) -> String {
        format!("{}/versions/latest/image.json", self.base(Form::V1))
    }

    fn base(&self, form: Form) -> String {
        let form = match form {
            Form::V2 => "v2",
            Form::V1 => "v1",
        };
        let (reference, stream) = (&self.reference, &self.stream);
        format!("constellation/{form}/ref/{reference}/stream/{stream}")
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::invalid(format!("image name {text:?}: {why}"))
                .with_hint("want [ref/REF/][stream/STREAM/]VERSION, for instance v2.3.0")
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (reference, stream, version) = match parts[..] {
            ["ref", reference, "stream", stream, version] => (reference, stream, version),
            ["stream", stream, version] => (RELEASES, stream, version),
            [version] => (RELEASES, STABLE, version),
            _ => return Err(wrong("not a name".into())),
        };
        check_reference(reference)
            .and_then(|()| check_stream(reference, stream))
            .and_then(|()| match version {
                LATEST => Ok(()),
                _ => check_version(version),
            })
            .map_err(wrong)?;
        Ok(Self {
            reference: reference.to_owned(),
            stream: stream.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for Name {
    /// The shortest text that names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reference,
            stream,
            version,
        } = self;
        match (reference.as_str(), stream.as_str()) {
            (RELEASES, STABLE) => f.write_str(version),
            (RELEASES, stream) => write!(f, "stream/{stream}/{version}"),
            _ => write!(f, "ref/{reference}/stream/{stream}/{version}"),
        }
    }
}

/// Letters, digits and dashes: everything else of a branch's name becomes a dash.
fn check_reference(text: &str) -> Result<(), String> {
    let canonical: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    if text.is_empty() || text.len() > MAX_PART {
        return Err(format!("ref {text:?}"));
    }
    if text != canonical {
        return Err(format!("ref {text:?}, which is written {canonical:?}"));
    }
    match text.strip_prefix("refs-heads") {
        Some(rest) => Err(format!(
            "ref {text:?}: write {:?}",
            rest.trim_start_matches('-')
        )),
        None => Ok(()),
    }
}

fn check_stream(reference: &str, stream: &str) -> Result<(), String> {
    let known: [&str; 3] = match reference {
        RELEASES => [STABLE, "console", "debug"],
        _ => ["nightly", "console", "debug"],
    };
    match known.contains(&stream) {
        true => Ok(()),
        false => Err(format!(
            "stream {stream:?}: of ref {reference:?} there are {}",
            known.join(", ")
        )),
    }
}

/// `vMAJOR.MINOR.PATCH[-PRE.RELEASE]` in its one form, without build metadata.
fn check_version(text: &str) -> Result<(), String> {
    let number = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'))
    };
    let identifier = |text: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !text.is_empty()
            && text.bytes().all(known)
            && (!text.bytes().all(|b| b.is_ascii_digit()) || number(text))
    };
    let read = || {
        let rest = text.strip_prefix('v')?;
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (rest, None),
        };
        let numbers: Vec<&str> = core.split('.').collect();
        let good = text.len() <= MAX_PART
            && numbers.len() == 3
            && numbers.iter().all(|it| number(it))
            && pre.is_none_or(|pre| pre.split('.').all(identifier));
        good.then_some(())
    };
    read().ok_or_else(|| format!("version {text:?}, want vX.Y.Z"))
}
