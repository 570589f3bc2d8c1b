//! cosign's simple signing: payloads that name a digest and a repository, kept as layers of the
//! image `sha256-HEX.sig` in the signed image's repository (cosign 1 and 2, podman, skopeo, kpack).
//!
//! Follows cosign's specs/SIGNATURE_SPEC.md and containers-signature(5). Parsing is pure; what is
//! parsed says nothing until a key of the policy has verified it.

use base64::Engine as _;

use super::json;
use crate::oci::{Descriptor, Digest};

/// Media type of a layer that is a payload.
pub(crate) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of such a layer: base64 of the signature over the payload's bytes.
pub(crate) const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Artifact type of a referrer of the same form as the `.sig` image (cosign's OCI 1.1 mode).
pub(crate) const SIGNATURE_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The `type` of every payload.
pub(crate) const PAYLOAD_TYPE: &str = "cosign container image signature";
/// The `type` of those that GPG signs.
const ATOMIC_TYPE: &str = "atomic container signature";
/// Largest payload that is read; cosign writes 250 bytes, more with `-a key=value`.
pub(crate) const MAX_PAYLOAD: u64 = 64 << 10;
/// Longest signature in base64: RSA of 8192 bits takes 1368 characters.
const MAX_SIGNATURE: usize = 4096;

/// What a payload claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) digest: Digest,
    pub(crate) reference: String,
}

/// The tag that holds the signatures of `digest`.
pub(crate) fn tag_of(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm(), digest.hex())
}

/// The payload that claims `digest` for `reference`; the same for the same input.
pub(crate) fn write_payload(digest: &Digest, reference: &str) -> Vec<u8> {
    serde_json::json!({
        "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": digest },
            "type": PAYLOAD_TYPE,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// Reads a payload of cosign: exactly the known fields, `optional` free.
pub(crate) fn parse_payload(bytes: &[u8]) -> Result<Payload, String> {
    read_payload(bytes, PAYLOAD_TYPE, |optional| match optional.value {
        json::Value::Null => Ok(()),
        _ => optional.object().map(drop),
    })
}

/// Reads a payload that GPG signed (containers-signature(5)): as cosign's, with another type, and
/// `optional` has to be there.
pub(crate) fn parse_atomic(bytes: &[u8]) -> Result<Payload, String> {
    if bytes.len() as u64 > MAX_PAYLOAD {
        return Err(format!("payload: more than {MAX_PAYLOAD} bytes"));
    }
    read_payload(bytes, ATOMIC_TYPE, |optional| {
        optional.object()?;
        if let Some(creator) = optional.get("creator") {
            creator.string()?;
        }
        match optional.get("timestamp") {
            Some(time) if !matches!(time.value, json::Value::Number) => {
                Err(time.fault("want a number"))
            }
            _ => Ok(()),
        }
    })
}

fn read_payload(
    bytes: &[u8],
    want: &str,
    check_optional: fn(&json::Node) -> Result<(), json::Fault>,
) -> Result<Payload, String> {
    let read = || -> Result<Payload, json::Fault> {
        let root = json::parse(bytes)?;
        root.only(&["critical", "optional"])?;
        check_optional(root.want("optional")?)?;
        let critical = root.want("critical")?;
        critical.only(&["identity", "image", "type"])?;
        let kind = critical.want("type")?;
        if kind.string()? != want {
            return Err(kind.fault(format!("type is {:?}, want {want:?}", kind.string()?)));
        }
        let image = critical.want("image")?;
        image.only(&["docker-manifest-digest"])?;
        let digest = image.want("docker-manifest-digest")?;
        let identity = critical.want("identity")?;
        identity.only(&["docker-reference"])?;
        Ok(Payload {
            digest: digest
                .string()?
                .parse()
                .map_err(|_| digest.fault("not a digest"))?,
            reference: identity.want("docker-reference")?.string()?.to_owned(),
        })
    };
    read().map_err(|fault| format!("payload: {fault}"))
}

/// The signature that a payload's layer carries.
pub(crate) fn signature_of(layer: &Descriptor) -> Result<Vec<u8>, String> {
    let text = layer
        .annotations
        .get(SIGNATURE_ANNOTATION)
        .ok_or_else(|| format!("no annotation {SIGNATURE_ANNOTATION}"))?;
    decode_base64(text)
}

/// Standard base64, line breaks tolerated.
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    if text.len() > MAX_SIGNATURE {
        return Err(format!("signature longer than {MAX_SIGNATURE} characters"));
    }
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if text.is_empty() {
        return Err("empty signature".into());
    }
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| "signature is not base64".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cosign 3.1.2 wrote.
    const REAL: &str = r#"{"critical":{"identity":{"docker-reference":"127.0.0.1:5991/a/b"},"image":{"docker-manifest-digest":"sha256:25ace93237d66b2094f31c89a0eb1653978074fddd5728459ab85f9c90372f72"},"type":"cosign container image signature"},"optional":null}"#;

    #[test]
    fn writes_what_cosign_writes() {
        let payload = parse_payload(REAL.as_bytes()).unwrap();
        assert_eq!(payload.reference, "127.0.0.1:5991/a/b");
        assert_eq!(
            write_payload(&payload.digest, &payload.reference),
            REAL.as_bytes()
        );
        assert_eq!(
            tag_of(&payload.digest),
            "sha256-25ace93237d66b2094f31c89a0eb1653978074fddd5728459ab85f9c90372f72.sig"
        );
    }

    #[test]
    fn optional_is_free_and_critical_is_not() {
        let with = |from: &str, to: &str| parse_payload(REAL.replace(from, to).as_bytes());
        assert!(with("\"optional\":null", "\"optional\":{\"a\":[1],\"b\":\"c\"}").is_ok());
        for (from, to, want) in [
            ("\"optional\":null", "\"optional\":[]", "want an object"),
            (",\"optional\":null", "", "\"optional\" is missing"),
            (
                "\"optional\":null",
                "\"optional\":null,\"x\":1",
                "unknown field \"x\"",
            ),
            (
                "\"optional\":null",
                "\"optional\":{\"a\":1,\"a\":2}",
                "duplicate key",
            ),
            (
                "cosign container",
                "atomic container",
                "want \"cosign container",
            ),
            ("\"type\":", "\"kind\":", "unknown field \"kind\""),
            (
                "\"identity\":{",
                "\"identity\":{\"x\":1,",
                "unknown field \"x\"",
            ),
            ("\"image\":{", "\"image\":{\"x\":1,", "unknown field \"x\""),
            ("sha256:25", "sha256:zz", "not a digest"),
            ("\"127.0.0.1:5991/a/b\"", "7", "want a string"),
            (
                "\"critical\":{",
                "\"critical\":{\"type\":\"x\",",
                "duplicate key \"type\"",
            ),
        ] {
            let error = with(from, to).unwrap_err();
            assert!(error.contains(want), "{to}: {error}");
        }
    }

    #[test]
    fn what_gpg_signs_is_read_as_strictly() {
        let real = REAL.replace(PAYLOAD_TYPE, ATOMIC_TYPE).replace(
            "\"optional\":null",
            "\"optional\":{\"creator\":\"x\",\"timestamp\":1}",
        );
        let with = |from: &str, to: &str| parse_atomic(real.replace(from, to).as_bytes());
        assert_eq!(
            with("", "").unwrap(),
            parse_payload(REAL.as_bytes()).unwrap()
        );
        assert!(with(",\"timestamp\":1", ",\"x\":[]").is_ok());
        for (from, to, want) in [
            ("atomic", "cosign", "want \"atomic container"),
            (
                "{\"creator\":\"x\",\"timestamp\":1}",
                "null",
                "want an object",
            ),
            ("\"x\"", "1", "want a string"),
            (":1}", ":\"1\"}", "want a number"),
            ("\"image\":{", "\"image\":{\"x\":1,", "unknown field \"x\""),
            (
                "\"identity\":{",
                "\"identity\":{\"x\":1,",
                "unknown field \"x\"",
            ),
            (
                "\"critical\":{",
                "\"critical\":{\"type\":\"x\",",
                "duplicate key",
            ),
            (
                "{\"critical\"",
                "{\"x\":1,\"critical\"",
                "unknown field \"x\"",
            ),
        ] {
            let error = with(from, to).unwrap_err();
            assert!(error.contains(want), "{to}: {error}");
        }
        assert!(parse_payload(real.as_bytes()).is_err());
    }

    #[test]
    fn signatures_may_be_broken_into_lines() {
        assert_eq!(decode_base64("aGVs\nbG8=\r\n").unwrap(), b"hello");
        for bad in ["", "\n", "a", "!!!!", &"A".repeat(MAX_SIGNATURE + 4)] {
            assert!(decode_base64(bad).is_err());
        }
    }
}
