//! Provenance that real builders made before 2024, whose log entries are of kind `intoto` 0.0.1
//! (tests/data/slsa), verified with the public Sigstore's trusted root.

use serde_json::{Value, json};

use super::*;

const BUILDER: &str = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/\
                       generator_container_slsa3.yml";
const SOURCE: &str = "https://github.com/slsa-framework/example-package";
const PROMISE: &str = "dev.sigstore.cosign/bundle";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";

/// One builder's image and attestation.
struct Built {
    image: &'static [u8],
    index: Option<&'static [u8]>,
    attached: &'static [u8],
    envelope: &'static [u8],
}

macro_rules! data {
    ($file:literal) => {
        include_bytes!(concat!("../../../tests/data/slsa/", $file))
    };
}

const OLD: Built = Built {
    image: data!("v1.4.0/image.json"),
    index: None,
    attached: data!("v1.4.0/att.json"),
    envelope: data!("v1.4.0/envelope.json"),
};
const NEW: Built = Built {
    image: data!("v1.9.0/image.json"),
    index: Some(data!("v1.9.0/index.json")),
    attached: data!("v1.9.0/att.json"),
    envelope: data!("v1.9.0/envelope.json"),
};

// === impl Built ===

impl Built {
    /// A repository with the image; its attestation as `edit` changes it.
    fn stored(&self, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Memory {
        let raw = |bytes: &[u8]| {
            let kind: Value = serde_json::from_slice(bytes).unwrap();
            let kind = kind["mediaType"].as_str().unwrap().to_owned();
            RawManifest::new(kind, Bytes::copy_from_slice(bytes))
        };
        let memory = Memory::default();
        let image = raw(self.image);
        memory.put(Location::Digest(image.digest.clone()), &image);
        let tagged = self.index.map_or(image, raw);
        memory.put(Location::Tag("v1".into()), &tagged);
        let mut attached: Value = serde_json::from_slice(self.attached).unwrap();
        let mut envelope = self.envelope.to_vec();
        edit(&mut attached["layers"][0]["annotations"], &mut envelope);
        memory.blob(&envelope);
        attached["layers"][0]["digest"] = Digest::sha256(&envelope).to_string().into();
        attached["layers"][0]["size"] = envelope.len().into();
        let tag = format!("sha256-{}.att", tagged.digest.hex());
        let attached = raw(attached.to_string().as_bytes());
        memory.put(Location::Tag(tag), &attached);
        memory
    }

    fn annotation(&self, name: &str) -> Value {
        let attached: Value = serde_json::from_slice(self.attached).unwrap();
        attached["layers"][0]["annotations"][name].clone()
    }
}

fn requires(more: Value) -> Policy {
    let mut requirement = json!({
        "type": "nacreRequireAttestation", "predicateType": "https://slsa.dev/provenance/v0.2",
        "builder": BUILDER, "source": SOURCE,
        "signer": { "nacreKeyless": {
            "oidcIssuer": "https://token.actions.githubusercontent.com",
            "subjectPattern": "https://github.com/slsa-framework/.*",
        }},
    });
    for (key, value) in more.as_object().unwrap() {
        requirement[key] = value.clone();
    }
    policy(json!([requirement]))
}

#[tokio::test]
async fn provenance_of_builders_before_2024() {
    for (built, version) in [(&OLD, "v1.4.0"), (&NEW, "v1.9.0")] {
        let memory = built.stored(|_, _| {});
        let grant = admitted(&memory, &requires(json!({}))).await.unwrap();
        let attested = &grant.attestations()[0];
        let builder = format!("{BUILDER}@refs/tags/{version}");
        assert_eq!(attested.signer.as_ref().unwrap().subject, builder);
        assert!(attested.signed_at.unwrap() < 1_704_067_200);
        let exact = json!({ "builder": builder });
        admitted(&memory, &requires(exact)).await.unwrap();
        for (more, want) in [
            (
                json!({ "source": "https://github.com/slsa-framework/other" }),
                "built from",
            ),
            (
                json!({ "builder": format!("{BUILDER}@v1.2.3") }),
                "built by",
            ),
        ] {
            denied(admitted(&memory, &requires(more)).await, &[want]);
        }
        // Its log only promised to take it up.
        let proven = json!({ "signer": {
            "nacreKeyless": { "oidcIssuer": "https://token.actions.githubusercontent.com",
                              "subjectPattern": ".*" },
            "nacreRequireInclusionProof": true,
        }});
        denied(
            admitted(&memory, &requires(proven)).await,
            &["only promised by the log"],
        );
    }
}

#[tokio::test]
async fn provenance_of_builders_before_2024_that_must_not_serve() {
    let edited = |change: fn(&mut Value)| {
        move |annotations: &mut Value, _: &mut Vec<u8>| {
            let text = annotations[PROMISE].as_str().unwrap();
            let mut promise: Value = serde_json::from_str(text).unwrap();
            change(&mut promise);
            annotations[PROMISE] = promise.to_string().into();
        }
    };
    let policy = requires(json!({}));
    let refused = async |memory: Memory, want: &str| {
        denied(admitted(&memory, &policy).await, &[want]);
    };
    // Another time, another place in the log, another log.
    let set = "intoto 0.0.1: SET verification failed";
    let memory = NEW.stored(edited(|it| {
        it["Payload"]["integratedTime"] = 1_692_768_129.into()
    }));
    refused(memory, set).await;
    let memory = NEW.stored(edited(|it| it["Payload"]["logIndex"] = 1.into()));
    refused(memory, set).await;
    let memory = NEW.stored(edited(|it| it["Payload"]["logID"] = "00".repeat(32).into()));
    refused(memory, "by a log that is not trusted").await;
    // The entry about another attestation, and the certificate of another.
    let memory = NEW.stored(|it, _| it[PROMISE] = OLD.annotation(PROMISE));
    refused(memory, "about another envelope").await;
    let memory = NEW.stored(|it, _| it[CERTIFICATE] = OLD.annotation(CERTIFICATE));
    refused(memory, "of a signature by another signer").await;
    // The same statement in another text is another envelope.
    let memory = NEW.stored(|_, envelope| envelope.push(b'\n'));
    refused(memory, "about another envelope").await;
    // Another image's provenance, whole.
    let memory = Built {
        image: OLD.image,
        index: None,
        ..NEW
    };
    refused(memory.stored(|_, _| {}), "does not match any subject").await;
}
