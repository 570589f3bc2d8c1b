//! Platforms as image indexes name them, and choosing one.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS name, `linux`.
    pub os: String,
    /// GOARCH name, `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

// === impl Platform ===

impl Platform {
    /// The platform this binary runs on.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    /// Parses `os/architecture[/variant]`.
    ///
    /// # Errors
    /// `Invalid` if it has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if !os.is_empty() && !architecture.is_empty() && variant != Some("") =>
            {
                Ok(Self {
                    os: os.into(),
                    architecture: architecture.into(),
                    variant: variant.map(Into::into),
                })
            }
            _ => Err(Error::invalid(format!(
                "platform {text:?}: want os/architecture[/variant]"
            ))),
        }
    }

    /// Whether an entry for `offered` can run where `self` is wanted. A variant that either side
    /// leaves out matches; arm64 and arm64/v8 are the same.
    #[must_use]
    pub fn accepts(&self, offered: &Platform) -> bool {
        let variants = match (&self.variant, &offered.variant) {
            (Some(wanted), Some(offered)) => wanted == offered,
            _ => true,
        };
        self.os == offered.os && self.architecture == offered.architecture && variants
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_accepts() {
        let arm: Platform = Platform::parse("linux/arm64").unwrap();
        assert!(arm.accepts(&Platform::parse("linux/arm64/v8").unwrap()));
        assert!(
            !Platform::parse("linux/arm/v6")
                .unwrap()
                .accepts(&Platform::parse("linux/arm/v7").unwrap())
        );
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "a/b/"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
