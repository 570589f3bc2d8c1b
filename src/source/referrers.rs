//! What refers to what (OCI 1.1): the descriptor of a referrer, and the tag that lists referrers
//! where there is no referrers API.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::oci::{Descriptor, Digest, Document, Index, RawManifest, media_type};

/// Most referrers of one manifest that are looked at. Each costs a request to its reader.
pub(super) const MAX_REFERRERS: usize = 1024;

/// The tag under which an index lists the referrers of `subject`: algorithm and value, cut as the
/// distribution specification says.
#[must_use]
pub(super) fn fallback_tag(subject: &Digest) -> String {
    let hex = subject.hex();
    format!("{}-{}", subject.algorithm(), &hex[..hex.len().min(64)])
}

/// Whether a tag has the form of [`fallback_tag`], or of cosign's tags which add a suffix to it.
#[must_use]
pub(super) fn is_referrers_tag(tag: &str) -> bool {
    let value = tag
        .strip_prefix("sha256-")
        .or_else(|| tag.strip_prefix("sha512-"));
    value.is_some_and(|value| {
        value.len() >= 64
            && value.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit)
            && value.as_bytes().get(64).is_none_or(|b| *b == b'.')
    })
}

/// What a manifest or index refers to, and its descriptor in a list of referrers; `None` if it
/// refers to nothing.
#[must_use]
pub(super) fn referrer(manifest: &RawManifest) -> Option<(Digest, Descriptor)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        artifact_type: Option<String>,
        subject: Option<Named>,
        config: Option<Named>,
        annotations: Option<BTreeMap<String, String>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        media_type: Option<String>,
        digest: Option<Digest>,
    }
    let shape: Shape = serde_json::from_slice(&manifest.bytes).ok()?;
    let subject = shape.subject?.digest?;
    let config_type = shape.config.and_then(|config| config.media_type);
    let descriptor = Descriptor {
        media_type: shape
            .media_type
            .unwrap_or_else(|| manifest.media_type.clone()),
        artifact_type: shape.artifact_type.or(config_type),
        annotations: shape.annotations.unwrap_or_default(),
        ..manifest.descriptor()
    };
    Some((subject, descriptor))
}

/// The entries of a list of referrers; empty if the document is not an index.
#[must_use]
pub(super) fn listed(list: &RawManifest) -> Vec<Descriptor> {
    match list.parse() {
        Ok(Document::Index(index)) => index.manifests.into_iter().take(MAX_REFERRERS).collect(),
        _ => Vec::new(),
    }
}

/// `list` with `referrer` in it, once.
pub(super) fn with_referrer(
    mut list: Vec<Descriptor>,
    referrer: Descriptor,
) -> serde_json::Result<RawManifest> {
    list.retain(|listed| listed.digest != referrer.digest);
    list.push(referrer);
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests: list,
        annotations: BTreeMap::new(),
    };
    Ok(RawManifest::new(
        media_type::OCI_INDEX,
        serde_json::to_vec(&index)?.into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        let digest = Digest::sha256(b"");
        let tag = fallback_tag(&digest);
        assert_eq!(tag, format!("sha256-{}", digest.hex()));
        assert!(is_referrers_tag(&tag));
        assert!(is_referrers_tag(&format!("{tag}.sig")));
        assert!(!is_referrers_tag(&tag[..70]));
        assert!(!is_referrers_tag(&format!("{tag}a")));
        assert!(!is_referrers_tag("latest"));
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(fallback_tag(&long), format!("sha512-{}", "a".repeat(64)));
    }

    #[test]
    fn a_referrer_has_the_type_of_its_config_if_it_names_none() {
        let digest = Digest::sha256(b"subject");
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{digest}","size":1}},
               "subject":{{"digest":"{digest}"}},"annotations":{{"k":"v"}}}}"#
        );
        let raw = RawManifest::new(media_type::OCI_MANIFEST, text.into_bytes().into());
        let (subject, descriptor) = referrer(&raw).unwrap();
        assert_eq!(subject, digest);
        assert_eq!(descriptor.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(descriptor.annotations["k"], "v");
        assert_eq!(descriptor.digest, raw.digest);
        let list = with_referrer(vec![descriptor.clone()], descriptor.clone()).unwrap();
        assert_eq!(listed(&list), [descriptor]);
    }
}
