//! Formats of bills of materials, told by what is in the document.

use std::fmt;

use serde::{Deserialize, Serialize, de::IgnoredAny};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// SPDX, as JSON or in its own text form.
    Spdx,
    /// CycloneDX, as JSON or XML.
    #[serde(rename = "cyclonedx")]
    CycloneDx,
    /// syft's own.
    Syft,
    /// Something else.
    Other,
}

/// Predicate types of attestations that are bills of materials.
pub(super) const PREDICATES: [&str; 5] = [
    "https://spdx.dev/Document",
    "https://spdx.dev/Document/v2.3",
    "https://cyclonedx.org/bom",
    "https://cyclonedx.org/bom/v1.4",
    "https://syft.dev/bom",
];

/// How much of a document that is not JSON is looked at.
const HEAD: usize = 4096;

/// What tells formats apart; the rest of the document is passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Signs {
    #[serde(rename = "spdxVersion")]
    spdx: Option<IgnoredAny>,
    /// SPDX 3 is JSON-LD.
    #[serde(rename = "@context")]
    context: Option<serde_json::Value>,
    #[serde(rename = "bomFormat")]
    bom: Option<String>,
    artifacts: Option<IgnoredAny>,
    schema: Option<IgnoredAny>,
}

// === impl Format ===

impl Format {
    /// The format of a document.
    #[must_use]
    pub fn of(document: &[u8]) -> Self {
        if document.trim_ascii_start().first() == Some(&b'{') {
            let signs: Signs = serde_json::from_slice(document).unwrap_or_default();
            let context = signs.context.as_ref().and_then(|it| it.as_str());
            return match signs {
                Signs { spdx: Some(_), .. } => Format::Spdx,
                _ if context.is_some_and(|it| it.starts_with("https://spdx.org/")) => Format::Spdx,
                Signs { bom: Some(bom), .. } if bom == "CycloneDX" => Format::CycloneDx,
                Signs {
                    artifacts: Some(_),
                    schema: Some(_),
                    ..
                } => Format::Syft,
                _ => Format::Other,
            };
        }
        let head = String::from_utf8_lossy(&document[..document.len().min(HEAD)]);
        if head.contains("SPDXVersion:") {
            Format::Spdx
        } else if head.contains("http://cyclonedx.org/schema/bom") {
            Format::CycloneDx
        } else {
            Format::Other
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Spdx => "spdx",
            Format::CycloneDx => "cyclonedx",
            Format::Syft => "syft",
            Format::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_what_is_inside() {
        for (document, want) in [
            (
                r#" {"spdxVersion": "SPDX-2.3", "packages": []}"#,
                Format::Spdx,
            ),
            (
                r#"{"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": []}"#,
                Format::Spdx,
            ),
            ("# comment\nSPDXVersion: SPDX-2.3\n", Format::Spdx),
            (
                r#"{"bomFormat": "CycloneDX", "specVersion": "1.5"}"#,
                Format::CycloneDx,
            ),
            (
                r#"<?xml version="1.0"?><bom xmlns="http://cyclonedx.org/schema/bom/1.5">"#,
                Format::CycloneDx,
            ),
            (
                r#"{"artifacts": [], "schema": {"version": "1"}}"#,
                Format::Syft,
            ),
            (r#"{"bomFormat": "x"}"#, Format::Other),
            ("{", Format::Other),
            ("", Format::Other),
        ] {
            assert_eq!(Format::of(document.as_bytes()), want, "{document}");
        }
    }
}
