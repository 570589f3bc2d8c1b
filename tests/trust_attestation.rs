//! Attestations by the real cosign, and by certificates of a private Sigstore: what a policy may
//! ask of them, and what `nacre verify --attestations` says.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use nacre::{
    Error, Kind, Result,
    oci::{Descriptor, Digest, Location, Platform, RawManifest, Reference, media_type},
    source::BlobContent,
    trust::{Class, Grant, Policy, Request, Standing, admit, attestations},
};
use serde_json::{Value, json};

use self::support::{
    cosign::{Client, start},
    sigstore::{Ask, ISSUER, Key, Leaf, Sigstore, b64, dsse, intoto, now},
};

const SPDX: &str = "https://spdx.dev/Document";
const V0_2: &str = "https://slsa.dev/provenance/v0.2";
const V1: &str = "https://slsa.dev/provenance/v1";
const BUILDER: &str = "https://github.com/o/g/.github/workflows/b.yml@refs/tags/v1.2.3";
const SOURCE: &str = "https://github.com/o/app";

fn policy(requirements: Value) -> Policy {
    let text = json!({ "default": requirements });
    Policy::parse(text.to_string().as_bytes(), Path::new("policy.json")).unwrap()
}

fn requires(kind: &str, signer: &Value, more: Value) -> Policy {
    let mut requirement = json!({
        "type": "nacreRequireAttestation", "predicateType": kind, "signer": signer,
    });
    for (name, value) in more.as_object().unwrap() {
        requirement[name] = value.clone();
    }
    policy(json!([requirement]))
}

fn request<'a>(client: &'a Client, policy: &'a Policy, parts: &'a Parts) -> Request<'a> {
    Request {
        policy,
        reference: &parts.0,
        repository: &*client.reader,
        location: &parts.1,
        platform: &parts.2,
        expected_digest: None,
    }
}

struct Parts(Reference, Location, Platform);

fn parts(client: &Client) -> Parts {
    let reference = client.reference.with_tag("v1");
    let location = reference.location();
    Parts(Reference::Registry(reference), location, Platform::host())
}

async fn admitted(client: &Client, policy: &Policy) -> Result<Grant> {
    let parts = parts(client);
    admit(&request(client, policy, &parts)).await
}

fn denied(result: Result<Grant>, want: &str) -> Error {
    let error = result.expect_err(want);
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(
        error.to_string().contains(want),
        "want {want:?} in: {error}"
    );
    error
}

fn provenance(kind: &str) -> Value {
    let uri = format!("git+{SOURCE}@refs/tags/v9");
    match kind {
        V0_2 => json!({
            "builder": { "id": BUILDER }, "buildType": "t",
            "invocation": { "configSource": { "uri": uri, "digest": { "sha1": "ab" } } },
            "materials": [{ "uri": uri, "digest": { "sha1": "ab" } }],
        }),
        _ => json!({
            "buildDefinition": {
                "buildType": "t", "externalParameters": {},
                "resolvedDependencies": [{ "uri": uri, "digest": { "gitCommit": "ab" } }],
            },
            "runDetails": { "builder": { "id": BUILDER } },
        }),
    }
}

#[tokio::test]
async fn what_cosign_attests_by_key() {
    let Some((registry, cosign)) = start() else {
        return;
    };
    let (ours, theirs) = (cosign.generate("ours"), cosign.generate("theirs"));
    let signer = |path: &Path| json!({ "keyPath": path });
    for (name, more) in [
        ("tags", &["--new-bundle-format=false"][..]),
        ("bundles", &[]),
    ] {
        let client = Client::new(&registry, &format!("{name}/app")).await;
        let image = client.push_image("v1", name.as_bytes()).await;
        let reference = client.image(&image.digest);
        let sbom = requires(SPDX, &signer(&ours), json!({}));
        let slsa = requires(V1, &signer(&ours), json!({ "source": SOURCE }));
        denied(
            admitted(&client, &sbom).await,
            "the image has none of this type",
        );

        cosign.attest_as(
            "theirs",
            &reference,
            "spdxjson",
            r#"{"spdxVersion":"SPDX-2.3"}"#,
            more,
        );
        denied(admitted(&client, &sbom).await, "not signed by this key");
        cosign.attest_as(
            "ours",
            &reference,
            "spdxjson",
            r#"{"spdxVersion":"SPDX-2.3"}"#,
            more,
        );
        let grant = admitted(&client, &sbom).await.unwrap();
        let attested = &grant.attestations()[0];
        assert_eq!(attested.predicate_type, SPDX);
        assert_eq!(attested.signed_digest, image.digest);
        assert_eq!(attested.provenance, None);
        // An attestation is not a signature of the image.
        assert!(grant.evidence().is_empty());
        assert_eq!(grant.class(), Class::PlainUnsigned);
        let signed = policy(json!([{ "type": "sigstoreSigned", "keyPath": ours,
            "signedIdentity": { "type": "nacreMatchDigest" } }]));
        let error = admitted(&client, &signed).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);

        denied(admitted(&client, &slsa).await, "none of this type");
        for (kind, flag) in [(V0_2, "slsaprovenance02"), (V1, "slsaprovenance1")] {
            cosign.attest_as(
                "ours",
                &reference,
                flag,
                &provenance(kind).to_string(),
                more,
            );
            let origins = |builder: &str, source: &str, reference: &str| {
                requires(
                    kind,
                    &signer(&ours),
                    json!({ "builder": builder, "source": source, "ref": reference }),
                )
            };
            let unversioned = BUILDER.split('@').next().unwrap();
            let good = origins(unversioned, SOURCE, "refs/tags/*");
            let grant = admitted(&client, &good).await.unwrap();
            let found = grant.attestations()[0].provenance.clone().unwrap();
            assert_eq!(found.builder.as_deref(), Some(BUILDER));
            assert_eq!(found.revision.as_deref(), Some("ab"));
            for (policy, want) in [
                (origins("https://b.example", SOURCE, "*"), "built by"),
                (
                    origins(BUILDER, "https://github.com/o/fork", "*"),
                    "built from https://github.com/o/app, want https://github.com/o/fork",
                ),
                (
                    origins(BUILDER, SOURCE, "refs/heads/main"),
                    "built from reference refs/tags/v9, want refs/heads/main",
                ),
                (
                    requires(kind, &signer(&theirs), json!({})),
                    "not signed by this key",
                ),
            ] {
                denied(admitted(&client, &policy).await, want);
            }
        }

        let found = attestations(&slsa, &grant, &*client.reader).await.unwrap();
        assert_eq!(found.len(), 4, "{found:#?}");
        let by_policy: Vec<bool> = found
            .iter()
            .map(|it| matches!(it.standing, Standing::Policy { .. }))
            .collect();
        assert_eq!(by_policy.iter().filter(|it| **it).count(), 3, "{found:#?}");
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        for want in [
            "whom the policy names",
            "not proven: ",
            &format!("built by  {BUILDER}"),
            &format!("from      {SOURCE}"),
            "reference refs/tags/v9",
        ] {
            assert!(said.contains(want), "want {want:?} in {said}");
        }

        // The tag moves; what was attested about the old image does not follow.
        client.push_image("v1", b"another").await;
        denied(admitted(&client, &sbom).await, "none of this type");
    }
}

/// A certificate as Fulcio gives it to a workflow.
fn workflow(sigstore: &Sigstore, builder: &str, source: &str) -> Leaf {
    let claim =
        |number: u8, value: &str| format!("1.3.6.1.4.1.57264.1.{number}=ASN1:UTF8String:{value}\n");
    let more = claim(9, builder) + &claim(12, source) + &claim(14, "refs/tags/v9");
    sigstore.certify(Ask {
        san: &format!("URI:{builder}"),
        issuer: ISSUER,
        sct: true,
        more: &more,
    })
}

fn statement(digest: &Digest, kind: &str) -> String {
    json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind,
        "subject": [{ "name": "app", "digest": { "sha256": digest.hex() } }],
        "predicate": provenance(kind),
    })
    .to_string()
}

async fn push(client: &Client, bytes: &[u8]) {
    let descriptor = Descriptor::of("application/octet-stream", bytes);
    let content = BlobContent::Bytes(Bytes::copy_from_slice(bytes));
    client.writer.put_blob(&descriptor, content).await.unwrap();
}

/// The `.att` image that cosign 2 writes.
async fn attach(client: &Client, digest: &Digest, sigstore: &Sigstore, leaf: &Leaf, text: &str) {
    let (envelope, body) = dsse(Ok(leaf), text);
    let promise = sigstore.promise(&body, now());
    attach_as(client, digest, &envelope.to_string(), &promise, Some(leaf)).await;
}

/// The same, whatever the log's promise is.
async fn attach_as(
    client: &Client,
    digest: &Digest,
    envelope: &str,
    promise: &Value,
    leaf: Option<&Leaf>,
) {
    let kind = "application/vnd.dsse.envelope.v1+json";
    let mut layer = Descriptor::of(kind, envelope.as_bytes());
    let mut note = |name: &str, value: String| {
        layer.annotations.insert(format!("dev.{name}"), value);
    };
    note("cosignproject.cosign/signature", String::new());
    note("sigstore.cosign/bundle", promise.to_string());
    if let Some(leaf) = leaf {
        note("sigstore.cosign/certificate", leaf.pem.clone());
        note("sigstore.cosign/chain", leaf.chain.clone());
    }
    push(client, envelope.as_bytes()).await;
    push(client, b"{}").await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"), "layers": [layer],
    });
    let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
    let tag = Location::Tag(format!("sha256-{}.att", digest.hex()));
    client.writer.put_manifest(&tag, &raw).await.unwrap();
}

#[tokio::test]
async fn log_entries_of_the_older_kind() {
    let Some((registry, _cosign)) = start() else {
        return;
    };
    let sigstore = Sigstore::new();
    let root = b64(sigstore.trusted_root().to_string().as_bytes());
    let client = Client::new(&registry, "older/app").await;
    let image = client.push_image("v1", b"layer").await;
    let text = statement(&image.digest, V0_2);
    let leaf = workflow(&sigstore, BUILDER, SOURCE);
    let person = json!({
        "nacreKeyless": { "oidcIssuer": ISSUER, "subject": BUILDER }, "nacreTrustedRootData": root,
    });
    let ours = Key::generate();
    let by_key = json!({
        "keyData": b64(ours.public_pem().as_bytes()), "nacreTrustedRootData": root,
    });
    for (signer, policy, verifier, holder) in [
        (Ok(&leaf), &person, leaf.pem.clone(), Some(&leaf)),
        (Err(&ours), &by_key, ours.public_pem(), None),
    ] {
        let policy = requires(V0_2, policy, json!({}));
        let envelope = dsse(signer, &text).0.to_string();
        let attach = async |promise: Value| {
            attach_as(&client, &image.digest, &envelope, &promise, holder).await;
            admitted(&client, &policy).await
        };
        let good = intoto(&envelope, &text, &verifier);
        let grant = attach(sigstore.promise(&good, now())).await.unwrap();
        assert!(grant.attestations()[0].signed_at.is_some());
        let other = Key::generate().public_pem();
        for (body, want) in [
            (intoto("x", &text, &verifier), "about another envelope"),
            (intoto(&envelope, "x", &verifier), "about another payload"),
            (
                intoto(&envelope, &text, &other),
                "of a signature by another signer",
            ),
            (intoto(&envelope, &text, "x"), "publicKey: not PEM text"),
            (good.replace("sha256", "md5"), "hash by \"md5\""),
            (good.replace("\"spec\"", "\"specs\""), "\"spec\" is missing"),
        ] {
            denied(attach(sigstore.promise(&body, now())).await, want);
        }
        let mut tampered = sigstore.promise(&good, now());
        tampered["Payload"]["logIndex"] = 7.into();
        denied(attach(tampered).await, "SET verification failed");
        let strange = Sigstore::new().promise(&good, now());
        denied(attach(strange).await, "by a log that is not trusted");
        denied(
            attach(sigstore.promise(&good, now() + 200_000)).await,
            "future",
        );
        if holder.is_some() {
            let late = sigstore.promise(&good, now() - 200_000);
            denied(attach(late).await, "certificate");
        }
    }
}

#[tokio::test]
async fn provenance_by_certificate() {
    let Some((registry, _cosign)) = start() else {
        return;
    };
    let sigstore = Sigstore::new();
    let signer = json!({
        "nacreKeyless": { "oidcIssuer": ISSUER, "subjectPattern": "https://github.com/.*" },
        "nacreTrustedRootData": b64(sigstore.trusted_root().to_string().as_bytes()),
    });
    let client = Client::new(&registry, "certified/app").await;
    let image = client.push_image("v1", b"layer").await;
    let origins = json!({ "builder": BUILDER, "source": SOURCE, "ref": "refs/tags/v9" });
    let leaf = workflow(&sigstore, BUILDER, SOURCE);
    for kind in [V0_2, V1] {
        let policy = requires(kind, &signer, origins.clone());
        attach(
            &client,
            &image.digest,
            &sigstore,
            &leaf,
            &statement(&image.digest, kind),
        )
        .await;
        let grant = admitted(&client, &policy).await.unwrap();
        let attested = &grant.attestations()[0];
        assert_eq!(attested.signer.as_ref().unwrap().subject, BUILDER);
        assert!(attested.signed_at.is_some());
        let found = attestations(&policy, &grant, &*client.reader)
            .await
            .unwrap();
        assert!(
            matches!(found[0].standing, Standing::Policy { .. }),
            "{found:?}"
        );
    }
    let policy = requires(V1, &signer, origins.clone());
    let good = statement(&image.digest, V1);
    let fork = "https://github.com/o/fork";
    let evil = "https://github.com/evil/x/.github/workflows/b.yml@refs/tags/v1.2.3";
    let strangers = Sigstore::new();
    for (builder, source, text, want) in [
        (evil, SOURCE, good.clone(), "but https://github.com/evil/x"),
        (
            BUILDER,
            fork,
            good.clone(),
            "built from https://github.com/o/fork",
        ),
        (
            BUILDER,
            SOURCE,
            statement(&Digest::sha256(b"x"), V1),
            "does not match any subject",
        ),
        (
            BUILDER,
            SOURCE,
            good.replace("o/app", "o/lib"),
            "built from https://github.com/o/lib",
        ),
        (
            BUILDER,
            SOURCE,
            statement(&image.digest, V0_2),
            "is of type",
        ),
    ] {
        let leaf = workflow(&sigstore, builder, source);
        attach(&client, &image.digest, &sigstore, &leaf, &text).await;
        denied(admitted(&client, &policy).await, want);
    }
    // Of another authority, and of nobody the policy names though the root vouches for him.
    let theirs = workflow(&strangers, BUILDER, SOURCE);
    attach(&client, &image.digest, &sigstore, &theirs, &good).await;
    denied(
        admitted(&client, &policy).await,
        "certificate chain is invalid",
    );
    let other = json!({
        "nacreKeyless": { "oidcIssuer": ISSUER, "subject": "somebody@example.com" },
        "nacreTrustedRootData": signer["nacreTrustedRootData"],
    });
    let policy = requires(V1, &other, json!({}));
    attach(&client, &image.digest, &sigstore, &leaf, &good).await;
    denied(admitted(&client, &policy).await, "identity mismatch");
    let anything = self::policy(json!([{ "type": "insecureAcceptAnything" }]));
    let grant = admitted(&client, &anything).await.unwrap();
    let found = attestations(&policy, &grant, &*client.reader)
        .await
        .unwrap();
    let Standing::Certified { signer } = &found[0].standing else {
        panic!("{found:?}")
    };
    assert_eq!(*signer, format!("{BUILDER} of {ISSUER}"));
    let found = attestations(&anything, &grant, &*client.reader)
        .await
        .unwrap();
    assert!(
        matches!(found[0].standing, Standing::Unproven { .. }),
        "{found:?}"
    );
}
