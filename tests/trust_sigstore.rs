//! Admission by certificates and logs, against the real cosign and a real registry: a private
//! Sigstore (`support::sigstore`) makes what Fulcio and Rekor would, cosign attaches and verifies it
//! too, and each way in which it must not serve is refused.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use nacre::{
    Error, Kind, Result,
    oci::{Descriptor, Digest, Location, Platform, RawManifest, Reference, media_type},
    source::BlobContent,
    trust::{EvidenceKind, Grant, Policy, Request, admit},
};
use serde_json::{Value, json};

use self::support::{
    cosign::{Client, Cosign, start},
    docker_registry::DockerRegistry,
    sigstore::{Ask, EMAIL, ISSUER, Key, Leaf, Sigstore, b64, hashedrekord, now, statement},
};

const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn policy(requirement: Value) -> Policy {
    let text = json!({ "default": [requirement] });
    Policy::parse(text.to_string().as_bytes(), Path::new("policy.json")).unwrap()
}

/// `sigstoreSigned` with `fields`, for the repository or (bundles carry no name) the digest alone.
fn signed(mut fields: Value, identity: &str) -> Policy {
    fields["type"] = "sigstoreSigned".into();
    fields["signedIdentity"] = json!({ "type": identity });
    policy(fields)
}

async fn admitted(client: &Client, policy: &Policy) -> Result<Grant> {
    let reference = client.reference.with_tag("v1");
    admit(&Request {
        policy,
        reference: &Reference::Registry(reference.clone()),
        repository: &*client.reader,
        location: &reference.location(),
        platform: &Platform::host(),
        expected_digest: None,
    })
    .await
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

fn person() -> Ask<'static> {
    Ask {
        san: "email:dev@example.com",
        issuer: ISSUER,
        sct: true,
        more: "",
    }
}

/// What is attached to an image in the older form; each part can be exchanged.
struct Parts {
    payload: Vec<u8>,
    signature: Vec<u8>,
    promise: Value,
}

/// A registry, cosign and the private Sigstore.
struct Bench {
    registry: DockerRegistry,
    cosign: Cosign,
    sigstore: Sigstore,
}

impl Bench {
    fn start() -> Option<Self> {
        let (registry, cosign) = start()?;
        Some(Self {
            registry,
            cosign,
            sigstore: Sigstore::new(),
        })
    }

    async fn image(&self, name: &str) -> (Client, RawManifest) {
        let client = Client::new(&self.registry, name).await;
        let image = client.push_image("v1", name.as_bytes()).await;
        (client, image)
    }

    /// A signature by `key`, entered in the log at `time` under the name of `verifier`.
    fn sign(
        &self,
        client: &Client,
        digest: &Digest,
        key: &Key,
        verifier: &str,
        time: i64,
    ) -> Parts {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": client.reference.repository() },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signature = key.sign(&payload);
        let body = hashedrekord(&payload, &signature, verifier);
        Parts {
            promise: self.sigstore.promise(&body, time),
            payload,
            signature,
        }
    }

    /// By cosign itself.
    fn attach_by_cosign(&self, image: &str, parts: &Parts, leaf: Option<&Leaf>) {
        let home = self.cosign.home.path();
        std::fs::write(home.join("payload"), &parts.payload).unwrap();
        std::fs::write(home.join("signature"), b64(&parts.signature)).unwrap();
        let promise = json!({ "rekorBundle": parts.promise }).to_string();
        std::fs::write(home.join("rekor"), promise).unwrap();
        let mut arguments = vec!["attach", "signature", "--payload", "payload"];
        arguments.extend(["--signature", "signature", "--rekor-response", "rekor"]);
        if let Some(leaf) = leaf {
            std::fs::write(home.join("leaf.pem"), &leaf.pem).unwrap();
            std::fs::write(home.join("chain.pem"), &leaf.chain).unwrap();
            arguments.extend([
                "--certificate",
                "leaf.pem",
                "--certificate-chain",
                "chain.pem",
            ]);
        }
        arguments.push(image);
        self.cosign.run(&arguments).unwrap();
    }

    /// As cosign does, but whatever the parts are.
    async fn attach(&self, client: &Client, digest: &Digest, parts: &Parts, leaf: Option<&Leaf>) {
        let mut layer = Descriptor::of(
            "application/vnd.dev.cosign.simplesigning.v1+json",
            &parts.payload,
        );
        let mut note = |name: &str, value: String| {
            layer.annotations.insert(format!("dev.{name}"), value);
        };
        note("cosignproject.cosign/signature", b64(&parts.signature));
        note("sigstore.cosign/bundle", parts.promise.to_string());
        if let Some(leaf) = leaf {
            note("sigstore.cosign/certificate", leaf.pem.clone());
            note("sigstore.cosign/chain", leaf.chain.clone());
        }
        push(client, &parts.payload).await;
        push(client, b"{}").await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"), "layers": [layer],
        });
        let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
        let tag = Location::Tag(format!("sha256-{}.sig", digest.hex()));
        client.writer.put_manifest(&tag, &raw).await.unwrap();
    }

    /// A bundle as a referrer; the registry knows no referrers, so there is the fallback tag.
    async fn refer(&self, client: &Client, image: &RawManifest, bundle: &Value) {
        let bundle = bundle.to_string();
        push(client, bundle.as_bytes()).await;
        push(client, b"{}").await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": BUNDLE,
            "config": Descriptor::of(media_type::OCI_EMPTY, b"{}"),
            "layers": [Descriptor::of(BUNDLE, bundle.as_bytes())],
            "subject": image.descriptor(),
        });
        let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
        let by_digest = Location::Digest(raw.digest.clone());
        client.writer.put_manifest(&by_digest, &raw).await.unwrap();
        let mut descriptor = raw.descriptor();
        descriptor.artifact_type = Some(BUNDLE.into());
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor],
        });
        let index = RawManifest::new(media_type::OCI_INDEX, index.to_string().into());
        let tag = Location::Tag(format!("sha256-{}", image.digest.hex()));
        client.writer.put_manifest(&tag, &index).await.unwrap();
    }

    /// `fulcio` with the parts of this Sigstore, changed by `change`.
    fn fulcio(&self, change: impl FnOnce(&mut Value)) -> Policy {
        let mut fields = json!({
            "fulcio": { "caData": b64(self.sigstore.root_pem().as_bytes()),
                "oidcIssuer": ISSUER, "subjectEmail": EMAIL },
            "rekorPublicKeyData": b64(self.sigstore.rekor.public_pem().as_bytes()),
        });
        change(&mut fields);
        signed(fields, "matchRepository")
    }

    fn keyless(&self, identity: &str, change: impl FnOnce(&mut Value)) -> Policy {
        let root = self.sigstore.trusted_root().to_string();
        let mut fields = json!({
            "nacreKeyless": { "oidcIssuer": ISSUER, "subjectEmail": EMAIL },
            "nacreTrustedRootData": b64(root.as_bytes()),
        });
        change(&mut fields);
        signed(fields, identity)
    }

    /// cosign's own verdict on the image.
    fn cosign_verifies(&self, image: &str, more: &[&str]) -> Result<String, String> {
        let root = self.cosign.home.path().join("trusted_root.json");
        std::fs::write(&root, self.sigstore.trusted_root().to_string()).unwrap();
        let mut arguments = vec!["verify", "--trusted-root", root.to_str().unwrap()];
        arguments.extend(more);
        arguments.push(image);
        self.cosign.run(&arguments)
    }
}

async fn push(client: &Client, bytes: &[u8]) {
    let descriptor = Descriptor::of("application/octet-stream", bytes);
    let content = BlobContent::Bytes(Bytes::copy_from_slice(bytes));
    client.writer.put_blob(&descriptor, content).await.unwrap();
}

const BY_PERSON: [&str; 4] = [
    "--certificate-identity",
    EMAIL,
    "--certificate-oidc-issuer",
    ISSUER,
];

#[tokio::test]
async fn certificates_in_tags() {
    let Some(bench) = Bench::start() else { return };
    let (client, image) = bench.image("tags/app").await;
    let leaf = bench.sigstore.certify(person());
    let parts = bench.sign(&client, &image.digest, &leaf.key, &leaf.pem, now());
    let name = client.image(&image.digest);
    bench.attach_by_cosign(&name, &parts, Some(&leaf));
    // What this test makes is what cosign takes for good.
    let mut arguments = BY_PERSON.to_vec();
    arguments.push("--new-bundle-format=false");
    bench.cosign_verifies(&name, &arguments).unwrap();

    for policy in [
        bench.fulcio(|_| {}),
        bench.keyless("matchRepository", |_| {}),
        bench.keyless("matchRepository", |it| {
            it["nacreKeyless"] = json!({ "oidcIssuer": ISSUER, "subjectPattern": "dev@.*" });
        }),
        bench.keyless("matchRepository", |it| {
            it["nacreKeyless"] = json!({ "oidcIssuer": ISSUER, "subject": EMAIL });
        }),
    ] {
        let grant = admitted(&client, &policy).await.unwrap();
        let evidence = &grant.evidence()[0];
        assert_eq!(evidence.kind, EvidenceKind::CosignSignature);
        let signer = evidence.signer.as_ref().unwrap();
        assert_eq!(signer.subject, EMAIL);
        assert_eq!(signer.issuer.as_deref(), Some(ISSUER));
        assert_eq!(evidence.key, Digest::sha256(&leaf.key.spki()));
        assert!(evidence.signed_at.is_some());
        assert_eq!(evidence.identity, Some(client.reference.repository()));
    }
    let other = Sigstore::new();
    for (policy, want) in [
        (
            bench.fulcio(|it| it["fulcio"]["subjectEmail"] = "x@example.com".into()),
            "expected email x@example.com, got dev@example.com",
        ),
        (
            bench.fulcio(|it| it["fulcio"]["oidcIssuer"] = "https://x.example".into()),
            "issuer mismatch: expected https://x.example",
        ),
        (
            bench.fulcio(|it| it["fulcio"]["caData"] = b64(other.root_pem().as_bytes()).into()),
            "certificate chain is invalid",
        ),
        (
            bench.fulcio(|it| {
                it["rekorPublicKeyData"] = b64(other.rekor.public_pem().as_bytes()).into();
            }),
            "log",
        ),
        (
            bench.fulcio(|it| it["nacreRequireInclusionProof"] = true.into()),
            "only promised by the log",
        ),
        (
            bench.keyless("matchRepository", |it| {
                it["nacreKeyless"] = json!({ "oidcIssuer": ISSUER, "subjectPattern": "dev" });
            }),
            "expected pattern ^(?:dev)$, got dev@example.com",
        ),
        (
            bench.keyless("matchRepoDigestOrExact", |_| {}),
            "does not accept",
        ),
        (
            signed(
                json!({ "keyData": b64(Key::generate().public_pem().as_bytes()) }),
                "matchRepository",
            ),
            "not signed by this key",
        ),
    ] {
        denied(admitted(&client, &policy).await, want);
    }
}

#[tokio::test]
async fn certificates_in_tags_that_must_not_serve() {
    let Some(bench) = Bench::start() else { return };
    let fulcio = bench.fulcio(|_| {});
    let keyless = bench.keyless("matchRepository", |_| {});
    let leaf = bench.sigstore.certify(person());
    let (client, image) = bench.image("bad/app").await;
    let good = || bench.sign(&client, &image.digest, &leaf.key, &leaf.pem, now());
    let refused = async |parts: &Parts, leaf: Option<&Leaf>, want: &str| {
        bench.attach(&client, &image.digest, parts, leaf).await;
        for policy in [&fulcio, &keyless] {
            denied(admitted(&client, policy).await, want);
        }
    };
    bench
        .attach(&client, &image.digest, &good(), Some(&leaf))
        .await;
    for policy in [&fulcio, &keyless] {
        admitted(&client, policy).await.unwrap();
    }
    refused(&good(), None, "signed by a key, not by a certificate").await;

    // The promise says another time than was signed.
    let mut parts = good();
    let time = parts.promise["Payload"]["integratedTime"].as_i64().unwrap();
    parts.promise["Payload"]["integratedTime"] = (time - 1).into();
    refused(&parts, Some(&leaf), "SET verification failed").await;
    // The promise is somebody else's.
    let mut parts = good();
    parts.promise = json!({});
    refused(&parts, Some(&leaf), "log entry: line 1").await;
    // Two days later and before it was issued: outside the certificate's day.
    let late = bench.sign(
        &client,
        &image.digest,
        &leaf.key,
        &leaf.pem,
        now() - 200_000,
    );
    refused(&late, Some(&leaf), "certificate").await;
    let early = bench.sign(
        &client,
        &image.digest,
        &leaf.key,
        &leaf.pem,
        now() + 200_000,
    );
    refused(&early, Some(&leaf), "future").await;
    // The log's entry is about another signature by the same certificate.
    let mut parts = good();
    parts.promise = bench
        .sign(&client, &Digest::sha256(b"x"), &leaf.key, &leaf.pem, now())
        .promise;
    refused(&parts, Some(&leaf), "artifact mismatch").await;
    // The certificate is another's, of the same name.
    let twin = bench.sigstore.certify(person());
    let mut parts = good();
    parts.promise = bench
        .sign(&client, &image.digest, &leaf.key, &twin.pem, now())
        .promise;
    refused(&parts, Some(&twin), "signature").await;
    // For another digest, and for another repository.
    let other = bench.sign(&client, &Digest::sha256(b"x"), &leaf.key, &leaf.pem, now());
    refused(&other, Some(&leaf), "not this digest").await;
    let (elsewhere, _) = bench.image("elsewhere/app").await;
    let other = bench.sign(&elsewhere, &image.digest, &leaf.key, &leaf.pem, now());
    refused(&other, Some(&leaf), "does not accept").await;
    // Not the chain's root but an intermediate is missing.
    let mut bare = bench.sigstore.certify(person());
    bare.chain = String::new();
    let parts = bench.sign(&client, &image.digest, &bare.key, &bare.pem, now());
    bench
        .attach(&client, &image.digest, &parts, Some(&bare))
        .await;
    denied(
        admitted(&client, &fulcio).await,
        "certificate chain is invalid",
    );
    admitted(&client, &keyless).await.unwrap();
    // A root that comes with the signature vouches for nothing.
    let stranger = Sigstore::new();
    let theirs = stranger.certify(person());
    let parts = bench.sign(&client, &image.digest, &theirs.key, &theirs.pem, now());
    refused(&parts, Some(&theirs), "certificate chain is invalid").await;
    // A foreign signature stands beside ours in `trust::tests`; here the certificate's purpose.
    let unlogged = bench.sigstore.certify(Ask {
        sct: false,
        ..person()
    });
    let parts = bench.sign(&client, &image.digest, &unlogged.key, &unlogged.pem, now());
    bench
        .attach(&client, &image.digest, &parts, Some(&unlogged))
        .await;
    denied(admitted(&client, &keyless).await, "SCT");
    let careless = bench.keyless("matchRepository", |it| {
        it["nacreKeyless"]["insecureIgnoreSct"] = true.into();
    });
    admitted(&client, &careless).await.unwrap();
    let nobody = bench.sigstore.certify(Ask {
        issuer: "",
        ..person()
    });
    let parts = bench.sign(&client, &image.digest, &nobody.key, &nobody.pem, now());
    refused(&parts, Some(&nobody), "issuer mismatch").await;
    let uri = bench.sigstore.certify(Ask {
        san: "URI:dev@example.com",
        ..person()
    });
    let parts = bench.sign(&client, &image.digest, &uri.key, &uri.pem, now());
    refused(&parts, Some(&uri), "identity mismatch: expected email").await;
}

#[tokio::test]
async fn bundles_by_certificate_and_by_key() {
    let Some(bench) = Bench::start() else { return };
    let (client, image) = bench.image("bundles/app").await;
    let leaf = bench.sigstore.certify(person());
    let key = Key::generate();
    let keyless = bench.keyless("nacreMatchDigest", |_| {});
    let by_key = |log: bool| {
        let mut fields = json!({ "keyData": b64(key.public_pem().as_bytes()) });
        if log {
            fields["rekorPublicKeyData"] = b64(bench.sigstore.rekor.public_pem().as_bytes()).into();
        }
        signed(fields, "nacreMatchDigest")
    };
    let signs = statement(&image.digest, SIGN);
    let bundle = bench.sigstore.bundle(Ok(&leaf), &signs, true);
    bench.refer(&client, &image, &bundle).await;
    let name = client.image(&image.digest);
    bench.cosign_verifies(&name, &BY_PERSON).unwrap();
    let grant = admitted(&client, &keyless).await.unwrap();
    assert_eq!(grant.evidence()[0].kind, EvidenceKind::SigstoreBundle);
    assert_eq!(grant.evidence()[0].signer.as_ref().unwrap().subject, EMAIL);
    denied(
        admitted(&client, &by_key(true)).await,
        "signed by a certificate (keyless), not by a key",
    );
    denied(
        admitted(&client, &bench.keyless("matchRepository", |_| {})).await,
        "the bundle names no repository",
    );

    let bundle = bench.sigstore.bundle(Err(&key), &signs, true);
    bench.refer(&client, &image, &bundle).await;
    std::fs::write(bench.cosign.home.path().join("k.pub"), key.public_pem()).unwrap();
    bench.cosign_verifies(&name, &["--key", "k.pub"]).unwrap();
    for log in [true, false] {
        let grant = admitted(&client, &by_key(log)).await.unwrap();
        assert_eq!(grant.evidence()[0].signer, None);
        assert_eq!(grant.evidence()[0].signed_at.is_some(), log);
    }
    denied(admitted(&client, &keyless).await, "no signing certificate");

    let relabel = |mut bundle: Value| {
        bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
        bundle
    };
    let without = |field: &str| {
        let mut bundle = bench.sigstore.bundle(Ok(&leaf), &signs, true);
        let material = bundle["verificationMaterial"].as_object_mut().unwrap();
        material.remove(field);
        bundle
    };
    let edited = |edit: fn(&mut Value)| {
        let mut bundle = bench.sigstore.bundle(Ok(&leaf), &signs, true);
        edit(&mut bundle["verificationMaterial"]["tlogEntries"][0]);
        bundle
    };
    let sbom = statement(&image.digest, "https://spdx.dev/Document");
    let other = statement(&Digest::sha256(b"x"), SIGN);
    for (what, bundle, want) in [
        (
            "unproven",
            bench.sigstore.bundle(Ok(&leaf), &signs, false),
            "bundle",
        ),
        (
            "relabelled",
            relabel(bench.sigstore.bundle(Ok(&leaf), &signs, false)),
            "only promised by the log",
        ),
        ("unlogged", without("tlogEntries"), "bundle"),
        (
            "sbom",
            bench.sigstore.bundle(Ok(&leaf), &sbom, true),
            "not a signature",
        ),
        (
            "other",
            bench.sigstore.bundle(Ok(&leaf), &other, true),
            "does not match any subject",
        ),
        (
            "root hash",
            edited(|entry| entry["inclusionProof"]["rootHash"] = b64(&[7; 32]).into()),
            "bundle",
        ),
        (
            "promise",
            edited(|entry| entry["integratedTime"] = "1700000000".into()),
            "SET",
        ),
    ] {
        bench.refer(&client, &image, &bundle).await;
        let error = admitted(&client, &keyless).await.expect_err(what);
        assert_eq!(error.kind(), Kind::Denied, "{what}: {error}");
        let said = error.to_string().to_lowercase();
        assert!(said.contains(&want.to_lowercase()), "{what}: {error}");
    }
    // By a key, the log is asked only if the policy names one.
    let bundle = bench.sigstore.bundle(Err(&key), &signs, false);
    bench.refer(&client, &image, &relabel(bundle)).await;
    admitted(&client, &by_key(false)).await.unwrap();
    denied(
        admitted(&client, &by_key(true)).await,
        "only promised by the log",
    );
}

#[tokio::test]
async fn keys_in_tags_with_a_log() {
    let Some(bench) = Bench::start() else { return };
    let (client, image) = bench.image("keys/app").await;
    let (ours, theirs) = (Key::generate(), Key::generate());
    let with = |logs: &[&Key]| {
        let logs: Vec<String> = logs
            .iter()
            .map(|k| b64(k.public_pem().as_bytes()))
            .collect();
        signed(
            json!({ "keyDatas": [b64(theirs.public_pem().as_bytes()), b64(ours.public_pem().as_bytes())],
                "rekorPublicKeyDatas": logs }),
            "matchRepository",
        )
    };
    let parts = bench.sign(&client, &image.digest, &ours, &ours.public_pem(), now());
    let name = client.image(&image.digest);
    bench.attach_by_cosign(&name, &parts, None);
    std::fs::write(bench.cosign.home.path().join("k.pub"), ours.public_pem()).unwrap();
    let flags = ["--key", "k.pub", "--new-bundle-format=false"];
    bench.cosign_verifies(&name, &flags).unwrap();
    let grant = admitted(&client, &with(&[&theirs, &bench.sigstore.rekor])).await;
    assert!(grant.unwrap().evidence()[0].signed_at.is_some());
    denied(admitted(&client, &with(&[&theirs])).await, "log");

    let root = b64(bench.sigstore.trusted_root().to_string().as_bytes());
    let by_root = signed(
        json!({ "keyData": b64(ours.public_pem().as_bytes()), "nacreTrustedRootData": root }),
        "matchRepository",
    );
    admitted(&client, &by_root).await.unwrap();

    let mut parts = bench.sign(&client, &image.digest, &ours, &theirs.public_pem(), now());
    bench.attach(&client, &image.digest, &parts, None).await;
    let policy = with(&[&bench.sigstore.rekor]);
    denied(admitted(&client, &policy).await, "key");
    parts.promise = Value::Null;
    bench.attach(&client, &image.digest, &parts, None).await;
    denied(admitted(&client, &policy).await, "log entry");
}

#[tokio::test]
async fn certificates_of_ones_own_authority() {
    let Some(bench) = Bench::start() else { return };
    let pki = |change: &dyn Fn(&mut Value)| {
        let mut fields = json!({ "pki": {
            "caRootsData": b64(bench.sigstore.root_pem().as_bytes()), "subjectEmail": EMAIL,
        }});
        change(&mut fields["pki"]);
        signed(fields, "matchRepository")
    };
    let (client, image) = bench.image("pki/app").await;
    let home = bench.cosign.home.path();
    let leaf = bench.sigstore.certify(Ask {
        san: "email:dev@example.com,DNS:build.example.com",
        issuer: "",
        sct: false,
        more: "",
    });
    std::fs::write(home.join("leaf.pem"), &leaf.pem).unwrap();
    std::fs::write(home.join("chain.pem"), &leaf.chain).unwrap();
    std::fs::write(home.join("own.pem"), bench.sigstore.leaf_key_pem()).unwrap();
    bench
        .cosign
        .run(&[
            "import-key-pair",
            "--key",
            "own.pem",
            "--output-key-prefix",
            "own",
        ])
        .unwrap();
    let name = client.image(&image.digest);
    bench
        .cosign
        .run(&[
            "sign",
            "--key",
            "own.key",
            "--certificate",
            "leaf.pem",
            "--certificate-chain",
            "chain.pem",
            "--new-bundle-format=false",
            "--use-signing-config=false",
            "--tlog-upload=false",
            "-y",
            &name,
        ])
        .unwrap();
    // cosign 3 keeps the certificate alone: the policy has to know the intermediate.
    let knows = |it: &mut Value| {
        it["caIntermediatesData"] = b64(bench.sigstore.between_pem().as_bytes()).into();
    };
    denied(
        admitted(&client, &pki(&|_| {})).await,
        "certificate is not by line 1",
    );
    for policy in [
        pki(&knows),
        pki(&|it| {
            knows(it);
            it["subjectHostname"] = "build.example.com".into();
        }),
    ] {
        let grant = admitted(&client, &policy).await.unwrap();
        let signer = grant.evidence()[0].signer.clone().unwrap();
        assert_eq!(signer.subject, "dev@example.com, build.example.com");
        assert_eq!(signer.issuer, None);
    }
    // cosign 2 brings the chain along.
    let parts = bench.sign(&client, &image.digest, &leaf.key, &leaf.pem, now());
    bench
        .attach(&client, &image.digest, &parts, Some(&leaf))
        .await;
    let policy = pki(&|_| {});
    admitted(&client, &policy).await.unwrap();
    for (policy, want) in [
        (
            pki(&|it| it["subjectEmail"] = "x@example.com".into()),
            "not for e-mail x@example.com",
        ),
        (
            pki(&|it| it["subjectHostname"] = "example.com".into()),
            "not for host example.com",
        ),
        (
            pki(&|it| it["caRootsData"] = b64(Sigstore::new().root_pem().as_bytes()).into()),
            "certificate is not by line 1",
        ),
    ] {
        denied(admitted(&client, &policy).await, want);
    }
    // Signed by another key under the same certificate.
    let parts = bench.sign(&client, &image.digest, &Key::generate(), &leaf.pem, now());
    bench
        .attach(&client, &image.digest, &parts, Some(&leaf))
        .await;
    denied(
        admitted(&client, &policy).await,
        "not signed by the certificate's key",
    );
}
