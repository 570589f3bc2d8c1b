//! The kubelet's `CredentialProviderConfig`, YAML or JSON.

use std::time::Duration;

use serde::Deserialize;

use super::{super::duration, pattern};
use crate::error::{Error, Result};

/// One program and the images it is asked for.
pub(in crate::source) struct ProviderConfig {
    /// File name of the program.
    pub(super) name: String,
    pub(super) match_images: Vec<String>,
    /// How long an answer serves that does not say.
    pub(super) default_cache_duration: Duration,
    /// `apiVersion` of question and answer.
    pub(super) api_version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// Most programs in one file, and most patterns of one; the kubelet has no limit.
const MAX_PROVIDERS: usize = 64;
const MAX_PATTERNS: usize = 1024;

/// Largest file; real ones have some hundred bytes.
const MAX_CONFIG: usize = 256 << 10;

const CONFIG_VERSIONS: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
/// All three have the same question and answer.
const EXEC_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    providers: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Item {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

/// Reads the file's programs, in its order.
///
/// # Errors
/// `Invalid` with line or provider; `Unsupported` for programs that want a pod's token.
pub(super) fn parse(text: &str) -> Result<Vec<ProviderConfig>> {
    if text.len() > MAX_CONFIG {
        return Err(Error::invalid(format!("over {MAX_CONFIG} bytes")));
    }
    let file: File = serde_saphyr::from_str(text).map_err(|error| malformed(&error))?;
    if file.kind != "CredentialProviderConfig" {
        return Err(Error::invalid(format!("kind {:?}", file.kind)));
    }
    if !CONFIG_VERSIONS.contains(&file.api_version.as_str()) {
        return Err(Error::invalid(format!("apiVersion {:?}", file.api_version)));
    }
    if file.providers.is_empty() || file.providers.len() > MAX_PROVIDERS {
        return Err(Error::invalid(format!(
            "{} providers, want 1 to {MAX_PROVIDERS}",
            file.providers.len()
        )));
    }
    let mut names = std::collections::HashSet::new();
    let mut providers = Vec::new();
    for item in file.providers {
        let name = item.name.clone();
        if !names.insert(name.clone()) {
            return Err(Error::invalid(format!("provider {name:?}: named twice")));
        }
        let within = |error: Error| error.context(format!("provider {name:?}"));
        providers.push(item.check().map_err(within)?);
    }
    Ok(providers)
}

/// The place, and what is wrong if that cannot be a value out of the file: `env` may hold secrets.
fn malformed(error: &serde_saphyr::Error) -> Error {
    let said = error.without_snippet().to_string();
    let about_a_key = ["unknown field", "missing field", "duplicate"];
    let line = said.lines().next().unwrap_or_default();
    let what = if about_a_key.iter().any(|words| line.contains(words)) {
        line
    } else {
        "not of the form of a CredentialProviderConfig"
    };
    Error::invalid(match error.location() {
        Some(at) => format!("line {} column {}: {what}", at.line(), at.column()),
        None => what.to_owned(),
    })
}

// === impl Item ===

impl Item {
    fn check(self) -> Result<ProviderConfig> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let dots = matches!(self.name.as_str(), "" | "." | "..");
        if dots || !self.name.bytes().all(safe) {
            return Err(Error::invalid("its name is not that of a program"));
        }
        if !EXEC_VERSIONS.contains(&self.api_version.as_str()) {
            return Err(Error::invalid(format!("apiVersion {:?}", self.api_version)));
        }
        if self.token_attributes.is_some() {
            return Err(Error::unsupported(
                "tokenAttributes: pods' service account tokens are not handed to plugins",
            ));
        }
        if self.match_images.is_empty() || self.match_images.len() > MAX_PATTERNS {
            return Err(Error::invalid(format!(
                "matchImages: {} patterns, want 1 to {MAX_PATTERNS}",
                self.match_images.len()
            )));
        }
        if let Some(bad) = self.match_images.iter().find(|p| !pattern::is_valid(p)) {
            return Err(Error::invalid(format!("matchImages: {bad:?}")));
        }
        let life = duration::parse(&self.default_cache_duration).ok_or_else(|| {
            Error::invalid("defaultCacheDuration: want for instance \"12h\"".to_owned())
        })?;
        Ok(ProviderConfig {
            name: self.name,
            match_images: self.match_images,
            default_cache_duration: life,
            api_version: self.api_version,
            args: self.args,
            env: self.env.into_iter().map(|v| (v.name, v.value)).collect(),
        })
    }
}
