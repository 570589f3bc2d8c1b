use std::path::Path;

use super::*;
use crate::error::Kind;

const KEY: &str = "-----BEGIN PUBLIC KEY-----\\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKHJ5dsJ/QBL1i7OPemo5DUoIJTKs\\nt4JDy7FRr2WD9QiRrErv36FKVLyBfwLOML1RjYyXqbWPoaazYG0riG5M/A==\\n-----END PUBLIC KEY-----\\n";

fn parse(text: &str) -> Result<Policy> {
    Policy::parse(text.as_bytes(), Path::new("p.json"))
}

/// A policy whose default is one `sigstoreSigned` with `fields`, on line 1.
fn signed(fields: &str) -> Result<Policy> {
    parse(&format!(
        r#"{{"default":[{{"type":"sigstoreSigned",{fields}}}]}}"#
    ))
}

fn key_and(identity: &str) -> Result<Policy> {
    signed(&format!(r#""keyData":"{KEY}","signedIdentity":{identity}"#))
}

#[test]
fn reads_what_containers_policy_describes() {
    let policy = parse(&format!(
        r#"{{
  "default": [{{"type": "reject"}}],
  "transports": {{
    "docker": {{
      "": [{{"type": "reject"}}],
      "r.example": [{{"type": "insecureAcceptAnything"}}],
      "r.example/a": [
        {{"type": "sigstoreSigned", "keyDatas": ["{KEY}", "{KEY}"],
          "signedIdentity": {{"type": "matchRepository"}}}},
        {{"type": "insecureAcceptAnything"}}]
    }},
    "docker-daemon": {{"": [{{"type": "insecureAcceptAnything"}}]}}
  }}
}}"#
    ))
    .unwrap();
    for (reference, scope, requirements) in [
        ("r.example/a:v1", "transports.docker[\"r.example/a\"]", 2),
        ("r.example/ab:v1", "transports.docker[\"r.example\"]", 1),
        ("other.example/a", "transports.docker[\"\"]", 1),
        ("oci:/", "default", 1),
    ] {
        let reference = reference.parse().unwrap();
        let applied = policy.applied(&reference).unwrap();
        assert_eq!(applied.scope, scope);
        assert_eq!(applied.requirements.len(), requirements);
    }
    let applied = policy.applied(&"r.example/a".parse().unwrap()).unwrap();
    let Requirement::SigstoreSigned {
        signer,
        identity,
        unsigned_index: true,
    } = &applied.requirements[0]
    else {
        panic!("sigstoreSigned first")
    };
    let Signer::Keys { keys, log: None } = &**signer else {
        panic!("by keys")
    };
    assert_eq!(keys.len(), 2);
    assert_eq!(*identity, SignedIdentity::MatchRepository);
}

#[test]
fn image_rs_defect_5_key_data_is_base64_of_pem_or_pem() {
    use base64::Engine as _;
    let pem = KEY.replace("\\n", "\n");
    let encoded = base64::engine::general_purpose::STANDARD.encode(&pem);
    let fingerprint = |policy: Policy| match policy.default[0].signer() {
        Some(Signer::Keys { keys, .. }) => keys[0].fingerprint().clone(),
        _ => panic!("signed"),
    };
    assert_eq!(
        fingerprint(signed(&format!(r#""keyData":"{encoded}""#)).unwrap()),
        fingerprint(signed(&format!(r#""keyData":"{KEY}""#)).unwrap())
    );
}

#[test]
fn every_signed_identity() {
    for (text, want) in [
        (r#"{"type":"matchExact"}"#, "matchExact"),
        (
            r#"{"type":"matchRepoDigestOrExact"}"#,
            "matchRepoDigestOrExact",
        ),
        (r#"{"type":"matchRepository"}"#, "matchRepository"),
        (r#"{"type":"nacreMatchDigest"}"#, "nacreMatchDigest"),
        (
            r#"{"type":"exactReference","dockerReference":"busybox:1"}"#,
            "exactReference docker.io/library/busybox:1",
        ),
        (
            r#"{"type":"exactRepository","dockerRepository":"r.example/a"}"#,
            "exactRepository r.example/a",
        ),
        (
            r#"{"type":"remapIdentity","prefix":"m.example:5000","signedPrefix":"r.example/up"}"#,
            "remapIdentity m.example:5000 to r.example/up",
        ),
    ] {
        let policy = key_and(text).unwrap();
        let Requirement::SigstoreSigned { identity, .. } = &policy.default[0] else {
            panic!("signed")
        };
        assert_eq!(identity.to_string(), want);
    }
    let default = signed(&format!(r#""keyData":"{KEY}""#)).unwrap();
    assert!(
        default.default[0]
            .to_string()
            .contains("matchRepoDigestOrExact")
    );
}

#[test]
fn refuses_with_file_line_and_reason() {
    let ok = r#"[{"type":"reject"}]"#;
    for (text, want) in [
        ("".to_owned(), "p.json: line 1, column 1: the document ends"),
        (
            "[]".to_owned(),
            "line 1, column 1: want an object, have an array",
        ),
        ("{}".to_owned(), "line 1, column 1: \"default\" is missing"),
        (
            format!("{{\"default\":{ok},\n \"x\":1}}"),
            "line 2, column 2: unknown field \"x\"",
        ),
        (
            format!("{{\"default\":{ok},\n\"default\":{ok}}}"),
            "line 2, column 1: duplicate key \"default\"",
        ),
        (
            "{\"default\":\n[]}".to_owned(),
            "line 2, column 1: an empty list",
        ),
        (
            "{\"default\":\n null}".to_owned(),
            "line 2, column 2: want an array, have null",
        ),
        (
            r#"{"default":{"type":"reject"}}"#.to_owned(),
            "column 12: want an array, have an object",
        ),
        (
            r#"{"default":[{}]}"#.to_owned(),
            "column 13: \"type\" is missing",
        ),
        (
            r#"{"default":[{"type":1}]}"#.to_owned(),
            "column 21: want a string, have a number",
        ),
        (
            r#"{"default":[{"type":"accept"}]}"#.to_owned(),
            "column 21: unknown requirement type \"accept\"",
        ),
        (
            r#"{"default":[{"type":"reject","x":1}]}"#.to_owned(),
            "column 30: unknown field \"x\"",
        ),
        (
            r#"{"default":[{"type":"insecureAcceptAnything","keyPath":"/k"}]}"#.to_owned(),
            "unknown field \"keyPath\"",
        ),
        (
            format!(r#"{{"default":{ok},"transports":[]}}"#),
            "want an object, have an array",
        ),
        (
            format!(r#"{{"default":{ok},"transports":{{"docker":[]}}}}"#),
            "want an object, have an array",
        ),
        (
            format!("{{\"default\":{ok},\"transports\":{{\"docker\":{{\n\"a\":[]}}}}}}"),
            "line 2, column 5: an empty list",
        ),
        (
            format!(
                "{{\"default\":{ok},\"transports\":{{\"docker\":{{\"a\":{ok},\n\"a\":{ok}}}}}}}"
            ),
            "line 2, column 1: duplicate key \"a\"",
        ),
        (
            format!("{{\"default\":{ok},\"transports\":{{\"docker\":{{}},\n\"docker\":{{}}}}}}"),
            "line 2, column 1: duplicate key \"docker\"",
        ),
        (
            format!(
                r#"{{"default":{ok},"transports":{{"docker":{{"docker://r.example":{ok}}}}}}}"#
            ),
            "can never match",
        ),
        (
            format!(r#"{{"default":{ok},"transports":{{"oci":{{"relative":{ok}}}}}}}"#),
            "can never match",
        ),
        (
            format!("{{\"default\":{ok}}}\n}}"),
            "line 2, column 1: more text",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        assert!(error.to_string().contains(want), "{text}: {error}");
    }
}

#[test]
fn refuses_malformed_sigstore_requirements() {
    for (fields, want) in [
        (
            r#""signedIdentity":{"type":"matchExact"}"#.to_owned(),
            "want exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki, nacreKeyless, \
             have none",
        ),
        (
            format!(r#""keyData":"{KEY}","keyPath":"/k""#),
            "have keyPath and keyData",
        ),
        (r#""keyPaths":[]"#.to_owned(), "keyPaths has 0 entries"),
        (
            r#""keyPaths":"/k""#.to_owned(),
            "want an array, have a string",
        ),
        (
            r#""keyPath":["/k"]"#.to_owned(),
            "want a string, have an array",
        ),
        (r#""keyPath":"""#.to_owned(), "keyPath: an empty path"),
        (
            r#""keyData":"!!!""#.to_owned(),
            "column 48: keyData: key data is neither base64",
        ),
        (r#""keyData":"aGVsbG8=""#.to_owned(), "no BEGIN line"),
        (
            r#""keyData":"-----BEGIN PUBLIC KEY-----\nAAAA""#.to_owned(),
            "without its END line",
        ),
        (
            format!(r#""keyData":"{KEY}{KEY}""#),
            "more than one PEM block",
        ),
        (
            r#""keyData":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----""#
                .to_owned(),
            "want a PEM block PUBLIC KEY, have CERTIFICATE",
        ),
        (
            format!(r#""keyData":"{}""#, KEY.replace("G5M/A==", "G5M/B==")),
            "malformed",
        ),
        (
            format!(r#""keyData":"{KEY}","signedIdentity":null"#),
            "want an object, have null",
        ),
        (
            format!(r#""keyData":"{KEY}","signedIdentity":{{"type":"matchAny"}}"#),
            "unknown signedIdentity type",
        ),
        (
            format!(r#""keyData":"{KEY}","signedIdentity":{{"type":"matchExact","x":1}}"#),
            "unknown field",
        ),
        (
            format!(
                r#""keyData":"{KEY}","signedIdentity":{{"type":"exactReference","dockerReference":"r.example/a"}}"#
            ),
            "wants a tag or a digest",
        ),
        (
            format!(r#""keyData":"{KEY}","signedIdentity":{{"type":"exactReference"}}"#),
            "\"dockerReference\" is missing",
        ),
        (
            format!(
                r#""keyData":"{KEY}","signedIdentity":{{"type":"exactRepository","dockerRepository":"r.example/a:v1"}}"#
            ),
            "wants no tag",
        ),
        (
            format!(
                r#""keyData":"{KEY}","signedIdentity":{{"type":"exactRepository","dockerRepository":"R/A"}}"#
            ),
            "not an image name",
        ),
        (
            format!(
                r#""keyData":"{KEY}","signedIdentity":{{"type":"remapIdentity","prefix":"r.example"}}"#
            ),
            "\"signedPrefix\" is missing",
        ),
        (
            format!(
                r#""keyData":"{KEY}","signedIdentity":{{"type":"remapIdentity","prefix":"r.example/a:v1","signedPrefix":"r.example"}}"#
            ),
            "not a host or the beginning",
        ),
        (
            format!(r#""keyData":"{KEY}","extra":true"#),
            "unknown field \"extra\"",
        ),
    ] {
        let error = signed(&fields).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{fields}: {error}");
        assert!(
            error.to_string().contains("policy p.json: line 1, column "),
            "{error}"
        );
        assert!(error.to_string().contains(want), "{fields}: {error}");
    }
}

/// A certificate authority and a log's key.
const CA: &str = "-----BEGIN CERTIFICATE-----\\nMIIBljCCATugAwIBAgIUZD8agV1Bt+dmvigcJ87734NRbMAwCgYIKoZIzj0EAwIw\\nHzEdMBsGA1UEAwwUbmFjcmUgdGVzdCBhdXRob3JpdHkwIBcNMjYxMTI2MjIwMTQx\\nWhgPMjEyNjExMDIyMjAxNDFaMB8xHTAbBgNVBAMMFG5hY3JlIHRlc3QgYXV0aG9y\\naXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGJeOrxkbN3Bb3VUAZMD742Ed\\nocWOLpeDB8bMOBGdZtwEDBP2GDKncDGyoICL5EKSYk+B/NGreQ1kW+z/PjU+PKNT\\nMFEwHQYDVR0OBBYEFP5FdXy8sYPK0XeSM60Vuq/IpH4qMB8GA1UdIwQYMBaAFP5F\\ndXy8sYPK0XeSM60Vuq/IpH4qMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID\\nSQAwRgIhAN4JFtFQ4/IO+xh/zy8A3RJfYgDrqqF0GHpzlcyyL+BTAiEA9gO4NvLj\\nkPCVju1uWDeqOrkUQzSGv+aTDKLpakhBwBI=\\n-----END CERTIFICATE-----\\n";
const FULCIO: &str = r#""oidcIssuer":"https://i.example","subjectEmail":"a@b.example""#;

#[test]
fn every_kind_of_signer() {
    for (fields, want) in [
        (
            format!(r#""keyData":"{KEY}","rekorPublicKeyData":"{KEY}""#),
            "(line 1), entered in the log (log line 1), signedIdentity",
        ),
        (
            format!(
                r#""keyData":"{KEY}","rekorPublicKeyDatas":["{KEY}"],"nacreRequireInclusionProof":true"#
            ),
            "proven by the log (log line 1)",
        ),
        (
            format!(r#""fulcio":{{"caData":"{CA}",{FULCIO}}},"rekorPublicKeyData":"{KEY}""#),
            "by e-mail a@b.example of https://i.example, entered in the log (log line 1), no SCT",
        ),
        (
            format!(r#""pki":{{"caRootsData":"{CA}","subjectHostname":"h.example"}}"#),
            "by host h.example by certificate of line 1, signedIdentity",
        ),
        (
            format!(
                r#""pki":{{"caRootsData":"{CA}{CA}","caIntermediatesData":"{CA}","subjectEmail":"e@h.example","subjectHostname":"h.example"}}"#
            ),
            "by e-mail e@h.example and host h.example by",
        ),
        (
            r#""nacreKeyless":{"oidcIssuer":"https://i.example","subject":"https://s.example/x"}"#
                .to_owned(),
            "by https://s.example/x of https://i.example, entered in the log (of the public",
        ),
        (
            r#""nacreKeyless":{"oidcIssuer":"i","subjectPattern":"a|b"},"nacreAllowUnsignedIndex":false"#
                .to_owned(),
            "by pattern ^(?:a|b)$ of i, entered in the log (of the public Sigstore), \
             signedIdentity matchRepoDigestOrExact, on the index",
        ),
        (
            r#""nacreKeyless":{"oidcIssuer":"i","subjectEmail":"a@b","insecureIgnoreSct":true},"nacreRequireInclusionProof":true"#
                .to_owned(),
            "by e-mail a@b of i, proven by the log (of the public Sigstore), no SCT",
        ),
    ] {
        let policy = signed(&fields).unwrap_or_else(|e| panic!("{fields}: {e}"));
        let said = policy.default[0].to_string();
        assert!(said.contains(want), "want {want:?} in: {said}");
    }
    let more =
        parse(r#"{"default":[{"type":"nacreRequireEncrypted"},{"type":"nacreRequireDigestPin"}]}"#);
    assert_eq!(more.unwrap().default.len(), 2);
    let allows = r#"{"type":"nacreAllowUnsignedLayerIndex"}"#;
    let beside = format!(r#"{{"default":[{{"type":"insecureAcceptAnything"}},{allows}]}}"#);
    let said = parse(&beside).unwrap().default[1].to_string();
    assert_eq!(said, "nacreAllowUnsignedLayerIndex");
    let alone = parse(&format!(r#"{{"default":[{allows}]}}"#)).unwrap_err();
    assert!(alone.to_string().contains("alone says nothing"), "{alone}");
}

#[test]
fn refuses_malformed_signers() {
    let key = format!(r#""keyData":"{KEY}""#);
    let fulcio = format!(r#""fulcio":{{"caData":"{CA}",{FULCIO}}}"#);
    let log = format!(r#""rekorPublicKeyData":"{KEY}""#);
    let root = r#""nacreTrustedRootData":"{}""#;
    let keyless = r#""nacreKeyless":{"oidcIssuer":"i","subject":"s"}"#;
    let pki = format!(r#""pki":{{"caRootsData":"{CA}","subjectEmail":"a@b"}}"#);
    for (fields, want) in [
        (format!("{key},{fulcio},{log}"), "have keyData and fulcio"),
        (format!("{fulcio},{pki}"), "have fulcio and pki"),
        (fulcio.clone(), "fulcio wants one of rekorPublicKeyPath"),
        (
            format!("{fulcio},{root}"),
            "nacreTrustedRootData cannot be given with fulcio",
        ),
        (
            format!(r#"{fulcio},{log},"rekorPublicKeyPath":"/k""#),
            "have rekorPublicKeyPath and rekorPublicKeyData",
        ),
        (
            format!("{pki},{log}"),
            "rekorPublicKeyData cannot be given with pki",
        ),
        (
            format!("{keyless},{log}"),
            "rekorPublicKeyData cannot be given with nacreKeyless",
        ),
        (
            format!(r#"{key},"nacreRequireInclusionProof":true"#),
            "nacreRequireInclusionProof needs rekorPublicKey",
        ),
        (
            format!(r#"{pki},"nacreRequireInclusionProof":true"#),
            "nacreRequireInclusionProof needs a log",
        ),
        (
            format!(r#"{key},"nacreRequireInclusionProof":1"#),
            "want a boolean, have a number",
        ),
        (
            format!(r#""fulcio":{{{FULCIO}}},{log}"#),
            "want exactly one of caPath, caData, have none",
        ),
        (
            format!(r#""fulcio":{{"caData":"{CA}","oidcIssuer":"i"}},{log}"#),
            "\"subjectEmail\" is missing",
        ),
        (
            format!(r#""fulcio":{{"caData":"{CA}","subjectEmail":"i"}},{log}"#),
            "\"oidcIssuer\" is missing",
        ),
        (
            format!(r#""fulcio":{{"caData":"{CA}","oidcIssuer":"","subjectEmail":"i"}},{log}"#),
            "oidcIssuer: an empty string",
        ),
        (
            format!(r#""fulcio":{{"caData":"{CA}","x":1,{FULCIO}}},{log}"#),
            "unknown field \"x\"",
        ),
        (
            format!(r#""fulcio":{{"caData":"{KEY}",{FULCIO}}},{log}"#),
            "want PEM blocks CERTIFICATE, have PUBLIC KEY",
        ),
        (
            format!(r#""fulcio":[],{log}"#),
            "want an object, have an array",
        ),
        (
            format!(r#""pki":{{"caRootsData":"{CA}"}}"#),
            "pki wants subjectEmail or subjectHostname",
        ),
        (
            r#""pki":{"subjectEmail":"a@b"}"#.to_owned(),
            "want exactly one of caRootsPath, caRootsData, have none",
        ),
        (
            format!(
                r#""pki":{{"caRootsData":"{}","subjectEmail":"a"}}"#,
                CA.replace("MII", "MIJ")
            ),
            "a certificate that cannot be used",
        ),
        (
            r#""nacreKeyless":{"oidcIssuer":"i"}"#.to_owned(),
            "want exactly one of subject, subjectEmail, subjectPattern, have none",
        ),
        (
            r#""nacreKeyless":{"oidcIssuer":"i","subjectPattern":"("}"#.to_owned(),
            "is not a regular expression",
        ),
        (format!("{keyless},{root}"), "trusted root line 1"),
        (
            format!(r#"{key},"nacreAllowUnsignedIndex":"no""#),
            "want a boolean, have a string",
        ),
    ] {
        let error = signed(&fields).expect_err(&fields);
        assert_eq!(error.kind(), Kind::Invalid, "{fields}: {error}");
        let said = format!("{error}");
        assert!(said.contains("policy p.json: line 1, column "), "{said}");
        assert!(said.contains(want), "want {want:?} in: {said}");
    }
    // What the format allows and no verifier here can use.
    let ed25519 = "-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEAREvJyNZGjX6B3DAIuD3BTg9rIwV00GY8Xg5FU+IFDUQ=\\n-----END PUBLIC KEY-----";
    let error = signed(&format!(r#"{key},"rekorPublicKeyData":"{ed25519}""#)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.hint().unwrap().contains("nacreTrustedRootPath"));
}

#[test]
fn required_attestations() {
    let with = |fields: &str| {
        parse(&format!(
            r#"{{"default":[{{"type":"nacreRequireAttestation",{fields}}}]}}"#
        ))
    };
    let signer = format!(r#""signer":{{"keyData":"{KEY}"}}"#);
    let slsa = r#""predicateType":"https://slsa.dev/provenance/v1""#;
    let good = with(&format!(
        r#"{slsa},{signer},"builder":"https://b.example","source":"https://s.example/a","ref":"refs/tags/*""#
    ));
    let said = good.unwrap().default[0].to_string();
    assert!(
        said.starts_with("nacreRequireAttestation https://slsa.dev/provenance/v1 by sha256:")
            && said.ends_with(
                "builder https://b.example, source https://s.example/a, ref refs/tags/*"
            ),
        "{said}"
    );
    for (fields, want) in [
        (slsa.to_owned(), "\"signer\" is missing"),
        (signer.clone(), "\"predicateType\" is missing"),
        (format!(r#"{signer},"predicateType":"""#), "an empty string"),
        (
            format!(r#"{slsa},"signer":{{"keyData":"{KEY}","signedIdentity":{{}}}}"#),
            "unknown field \"signedIdentity\"",
        ),
        (
            format!(r#"{slsa},"signer":{{}}"#),
            "want exactly one of keyPath",
        ),
        (
            format!(r#"{signer},"predicateType":"https://spdx.dev/Document","builder":"b""#),
            "are in provenance only",
        ),
        (format!(r#"{slsa},{signer},"x":1"#), "unknown field \"x\""),
    ] {
        let error = with(&fields).expect_err(&fields);
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(
            error.to_string().contains(want),
            "want {want:?} in: {error}"
        );
    }
}

#[test]
fn known_words_that_are_not_checked_are_refused_not_ignored() {
    for (text, want) in [
        (
            "{\"default\":[{\"type\":\"signedBy\",\n\"keyType\":\"X509Certificates\"}]}".to_owned(),
            "line 2, column 11: keyType X509Certificates",
        ),
        (
            "{\"default\":[{\"type\":\"signedBaseLayer\"}]}".to_owned(),
            "signedBaseLayer",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{text}");
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn key_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cosign.pub");
    let fields = format!(r#""keyPath":"{}""#, path.display());
    let error = signed(&fields).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().contains("line 1, column 48: key file"),
        "{error}"
    );
    assert!(error.to_string().contains("cosign.pub"), "{error}");
    std::fs::write(&path, KEY.replace("\\n", "\n")).unwrap();
    assert!(
        signed(&fields).unwrap().default[0]
            .to_string()
            .contains("cosign.pub")
    );
    std::fs::write(
        &path,
        vec![b'x'; usize::try_from(crate::trust::key::MAX_KEY).unwrap() + 1],
    )
    .unwrap();
    assert!(signed(&fields).unwrap_err().to_string().contains("over "));
}

#[test]
fn finds_the_first_that_exists_and_refuses_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let candidates = [path("a.json"), path("b.json")];
    let error = Policy::find(None, &candidates).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    for part in ["a.json", "b.json"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let hint = error.hint().unwrap();
    assert!(hint.contains("--policy FILE") && hint.contains("--insecure-policy accept-anything"));

    std::fs::write(path("b.json"), r#"{"default":[{"type":"reject"}]}"#).unwrap();
    let found = Policy::find(None, &candidates).unwrap();
    assert_eq!(*found.origin(), Origin::File(path("b.json")));
    std::fs::write(path("a.json"), "{").unwrap();
    assert_eq!(
        Policy::find(None, &candidates).unwrap_err().kind(),
        Kind::Invalid
    );
    assert_eq!(
        Policy::find(Some(&path("missing")), &candidates)
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    assert_eq!(
        Policy::find(None, &[path("dangling"), path("b.json")])
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

#[test]
fn default_paths_prefer_the_user() {
    let text = |home| {
        default_policy_paths(home)
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        text(Some(Path::new("/home/u"))),
        [
            "/home/u/.config/containers/policy.json",
            "/etc/nacre/policy.json",
            "/etc/containers/policy.json"
        ]
    );
    assert_eq!(text(None).len(), 2);
}
