//! Ways in which a signature or an attestation must not serve, form by form: what is not tried elsewhere.
//! docs/refusals.md is the index of all of them. Signatures are by a Sigstore of this process.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod support;

use std::path::Path;

use bytes::Bytes;
use nacre::{
    Error, Kind, Result,
    index::write::Format,
    oci::{
        Descriptor, Digest, Location, Platform, RawManifest, Reference, RegistryReference,
        media_type,
    },
    source::{Access, BlobContent},
    trust::{Grant, Policy, Request, admit},
};
use serde_json::{Value, json};

use self::support::{
    cosign::Client,
    docker_registry::installed,
    program::run,
    registry::FakeRegistry,
    sigstore::{Ask, EMAIL, ISSUER, Key, Leaf, Sigstore, b64, dsse, hashedrekord, now, statement},
    toy::{lazy, put},
};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
const SPDX: &str = "https://spdx.dev/Document";
/// Longer ago, and further ahead, than a certificate is good for.
const DAYS: i64 = 200_000;

/// A repository of its own for each case, and who signs.
struct Bench {
    registry: FakeRegistry,
    sigstore: Sigstore,
    key: Key,
    leaf: Leaf,
}

/// One image and what is attached to it.
struct Case {
    name: &'static str,
    client: Client,
    image: RawManifest,
}

// === impl Bench ===

impl Bench {
    async fn start() -> Option<Self> {
        installed("openssl")?;
        let sigstore = Sigstore::new();
        let leaf = sigstore.certify(person());
        Some(Self {
            registry: FakeRegistry::start().await,
            leaf,
            sigstore,
            key: Key::generate(),
        })
    }

    async fn case(&self, name: &'static str) -> Case {
        let path = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let reference = format!("{}/{path}/app", self.registry.host());
        let reference: RegistryReference = reference.to_lowercase().parse().unwrap();
        let (access, image) = (Access::default(), Reference::Registry(reference.clone()));
        let client = Client {
            reader: access.open(&image).await.unwrap().0,
            writer: access.create(&image).await.unwrap().0,
            reference,
        };
        let image = client.push_image("v1", name.as_bytes()).await;
        Case {
            name,
            client,
            image,
        }
    }

    /// A key and the log, for signatures in tags or bundles.
    fn by_key(&self, identity: &str) -> Policy {
        let root = self.sigstore.trusted_root().to_string();
        policy(json!({
            "type": "sigstoreSigned", "keyData": b64(self.key.public_pem().as_bytes()),
            "nacreTrustedRootData": b64(root.as_bytes()),
            "signedIdentity": { "type": identity },
        }))
    }

    /// A signer by certificate, with an edited trusted root.
    fn person(&self, edit: impl FnOnce(&mut Value, &mut Value)) -> Value {
        let mut root = self.sigstore.trusted_root();
        let mut who = json!({ "oidcIssuer": ISSUER, "subjectEmail": EMAIL });
        edit(&mut who, &mut root);
        json!({ "nacreKeyless": who, "nacreTrustedRootData": b64(root.to_string().as_bytes()) })
    }

    /// The promise of the log to take up a signature over a payload.
    fn promise(&self, payload: &[u8], signature: &[u8], verifier: &str, time: i64) -> Value {
        self.sigstore
            .promise(&hashedrekord(payload, signature, verifier), time)
    }
}

// === impl Case ===

impl Case {
    fn payload(&self) -> Value {
        json!({
            "critical": {
                "identity": { "docker-reference": self.client.reference.repository() },
                "image": { "docker-manifest-digest": self.image.digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
    }

    fn statement(&self, predicate: &str) -> String {
        statement(&self.image.digest, predicate)
    }

    /// A layer of a `.sig` or `.att` image, and its content.
    async fn layer(&self, kind: &str, bytes: &[u8], notes: &[(&str, String)]) -> Descriptor {
        let mut layer = Descriptor::of(kind, bytes);
        for (name, value) in notes {
            layer
                .annotations
                .insert(format!("dev.{name}"), value.clone());
        }
        self.push(bytes).await;
        layer
    }

    /// The image in the tag with this ending.
    async fn tag(&self, ending: &str, layers: &[Descriptor]) {
        self.push(b"{}").await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"), "layers": layers,
        });
        let raw = RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into());
        let tag = format!("sha256-{}.{ending}", self.image.digest.hex());
        let tag = Location::Tag(tag);
        let put = self.client.writer.put_manifest(&tag, &raw);
        put.await.unwrap();
    }

    /// A `.sig` tag with one signature.
    async fn sign(&self, payload: &[u8], signature: &[u8], promise: &Value, leaf: Option<&Leaf>) {
        let mut notes = vec![
            ("cosignproject.cosign/signature", b64(signature)),
            ("sigstore.cosign/bundle", promise.to_string()),
        ];
        notes.extend(leaf.map(|it| ("sigstore.cosign/certificate", it.pem.clone())));
        let layer = self.layer(PAYLOAD, payload, &notes).await;
        self.tag("sig", &[layer]).await;
    }

    /// A `.att` tag with one attestation.
    async fn attest(&self, envelope: &str, promise: &Value, leaf: Option<&Leaf>) {
        let mut notes = vec![("sigstore.cosign/bundle", promise.to_string())];
        notes.extend(leaf.map(|it| ("sigstore.cosign/certificate", it.pem.clone())));
        let layer = self.layer(ENVELOPE, envelope.as_bytes(), &notes).await;
        self.tag("att", &[layer]).await;
    }

    /// A bundle as a referrer.
    async fn refer(&self, bundle: &str) {
        self.push(bundle.as_bytes()).await;
        self.push(b"{}").await;
        let raw = self.referrer(bundle);
        let location = Location::Digest(raw.digest.clone());
        let put = self.client.writer.put_manifest(&location, &raw);
        put.await.unwrap();
    }

    fn referrer(&self, bundle: &str) -> RawManifest {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": BUNDLE,
            "config": Descriptor::of(media_type::OCI_EMPTY, b"{}"),
            "layers": [Descriptor::of(BUNDLE, bundle.as_bytes())],
            "subject": self.image.descriptor(),
        });
        RawManifest::new(media_type::OCI_MANIFEST, manifest.to_string().into())
    }

    async fn push(&self, bytes: &[u8]) {
        let descriptor = Descriptor::of("application/octet-stream", bytes);
        let content = BlobContent::Bytes(Bytes::copy_from_slice(bytes));
        let put = self.client.writer.put_blob(&descriptor, content);
        put.await.unwrap();
    }

    async fn admitted(&self, policy: &Policy) -> Result<Grant> {
        let reference = self.client.reference.with_tag("v1");
        admit(&Request {
            policy,
            location: &reference.location(),
            reference: &Reference::Registry(reference),
            repository: &*self.client.reader,
            platform: &Platform::host(),
            expected_digest: None,
        })
        .await
    }

    async fn serves(&self, policy: &Policy) {
        let admitted = self.admitted(policy).await;
        assert!(admitted.is_ok(), "{}: {}", self.name, admitted.unwrap_err());
    }

    async fn refused(&self, policy: &Policy, want: &str) {
        let error: Error = match self.admitted(policy).await {
            Ok(_) => panic!("{}: admitted", self.name),
            Err(error) => error,
        };
        assert_eq!(error.kind(), Kind::Denied, "{}: {error}", self.name);
        let said = error.to_string().to_lowercase();
        let name = self.name;
        assert!(
            said.contains(&want.to_lowercase()),
            "{name}: want {want:?} in: {error}"
        );
    }
}

fn person() -> Ask<'static> {
    Ask {
        san: "email:dev@example.com",
        issuer: ISSUER,
        sct: true,
        more: "",
    }
}

fn policy(requirement: Value) -> Policy {
    let text = json!({ "default": [requirement] }).to_string();
    Policy::parse(text.as_bytes(), Path::new("policy.json")).unwrap()
}

fn signed_by(signer: &Value, identity: &str) -> Policy {
    let mut requirement = signer.clone();
    requirement["type"] = "sigstoreSigned".into();
    requirement["signedIdentity"] = json!({ "type": identity });
    policy(requirement)
}

fn attested_by(signer: &Value) -> Policy {
    policy(json!({
        "type": "nacreRequireAttestation", "predicateType": SPDX, "signer": signer,
    }))
}

/// The time of the authority has ended before anything of this test was made.
fn over(root: &mut Value) {
    root["certificateAuthorities"][0]["validFor"] =
        json!({ "start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z" });
}

/// A bundle says that it is of the first version, and has lost its proof.
fn relabel(mut bundle: Value) -> String {
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1".into();
    let material = bundle["verificationMaterial"].as_object_mut().unwrap();
    if let Some(leaf) = material.remove("certificate") {
        material.insert(
            "x509CertificateChain".into(),
            json!({ "certificates": [leaf] }),
        );
    }
    let entry = bundle["verificationMaterial"]["tlogEntries"][0].as_object_mut();
    entry.unwrap().remove("inclusionProof");
    bundle.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_by_key_in_tags() {
    let Some(bench) = Bench::start().await else {
        return;
    };
    let policy = bench.by_key("matchRepository");
    let verifier = bench.key.public_pem();
    let good = bench.case("good").await;
    let payload = good.payload().to_string();
    let signature = bench.key.sign(payload.as_bytes());
    let promise = bench.promise(payload.as_bytes(), &signature, &verifier, now());
    good.sign(payload.as_bytes(), &signature, &promise, None)
        .await;
    good.serves(&policy).await;

    for (name, edit, want) in [
        (
            "wrong type string",
            (|it| it.replace("cosign container", "atomic container")) as fn(String) -> String,
            "type is \"atomic container image signature\"",
        ),
        (
            "duplicate JSON keys",
            |it| it.replace("\"critical\":{", "\"critical\":{\"type\":\"x\","),
            "duplicate key \"type\"",
        ),
        (
            "an empty document",
            |_| "{}".to_owned(),
            "\"optional\" is missing",
        ),
        (
            "huge payload",
            |it| it.replace("null", &format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20))),
            "bytes",
        ),
    ] {
        let case = bench.case(name).await;
        let payload = edit(case.payload().to_string());
        let signature = bench.key.sign(payload.as_bytes());
        let promise = bench.promise(payload.as_bytes(), &signature, &verifier, now());
        case.sign(payload.as_bytes(), &signature, &promise, None)
            .await;
        case.refused(&policy, want).await;
    }

    let case = bench.case("tampered SET").await;
    let payload = case.payload().to_string();
    let signature = bench.key.sign(payload.as_bytes());
    let good = bench.promise(payload.as_bytes(), &signature, &verifier, now());
    let mut promise = good.clone();
    promise["Payload"]["logIndex"] = 1.into();
    case.sign(payload.as_bytes(), &signature, &promise, None)
        .await;
    case.refused(&policy, "SET verification failed").await;
    let mut promise = good.clone();
    promise["SignedEntryTimestamp"] = b64(&bench.key.sign(b"x")).into();
    case.sign(payload.as_bytes(), &signature, &promise, None)
        .await;
    case.refused(&policy, "SET verification failed").await;
    // Another signature of the same key over the same payload: each is another.
    let other = bench.key.sign(payload.as_bytes());
    let promise = bench.promise(payload.as_bytes(), &other, &verifier, now());
    case.sign(payload.as_bytes(), &signature, &promise, None)
        .await;
    case.refused(&policy, "signature").await;
    let text = good.to_string().replacen('{', "{\"Payload\":{},", 1);
    let notes = [
        ("cosignproject.cosign/signature", b64(&signature)),
        ("sigstore.cosign/bundle", text),
    ];
    let layer = case.layer(PAYLOAD, payload.as_bytes(), &notes).await;
    case.tag("sig", &[layer]).await;
    case.refused(&policy, "log entry: line 1, column").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_by_key_in_bundles() {
    let Some(bench) = Bench::start().await else {
        return;
    };
    let policy = bench.by_key("nacreMatchDigest");
    let signed = |case: &Case| {
        let statement = case.statement(SIGN);
        bench.sigstore.bundle(Err(&bench.key), &statement, true)
    };
    let good = bench.case("good").await;
    good.refer(&signed(&good).to_string()).await;
    good.serves(&policy).await;

    let case = bench.case("v0.1 relabel").await;
    case.refer(&relabel(signed(&case))).await;
    case.refused(&policy, "only promised by the log").await;
    let case = bench.case("tampered SET").await;
    let mut bundle = signed(&case);
    let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
    entry["inclusionPromise"]["signedEntryTimestamp"] = b64(&bench.key.sign(b"x")).into();
    case.refer(&bundle.to_string()).await;
    case.refused(&policy, "SET verification failed").await;
    let case = bench.case("body of another signature").await;
    let mut bundle = signed(&case);
    let (_, body) = dsse(Err(&bench.key), &case.statement(SIGN));
    bundle["verificationMaterial"]["tlogEntries"][0] = bench.sigstore.entry(&body, now(), true);
    case.refer(&bundle.to_string()).await;
    case.refused(&policy, "does not match any signature in Rekor entry")
        .await;
    let case = bench.case("huge bundle").await;
    let mut bundle = signed(&case);
    bundle["x"] = "x".repeat(5 << 20).into();
    case.refer(&bundle.to_string()).await;
    case.refused(&policy, "bytes").await;
    let case = bench.case("SBOM as signature").await;
    let bundle = bench
        .sigstore
        .bundle(Err(&bench.key), &case.statement(SPDX), true);
    case.refer(&bundle.to_string()).await;
    case.refused(&policy, "attestation of type https://spdx.dev/Document")
        .await;
    // The last of too many is not looked at. The registry lists them by digest.
    let case = bench.case("too many").await;
    let last = |bundle: &str| case.referrer(bundle).digest.hex();
    let good = std::iter::repeat_with(|| signed(&case).to_string());
    let good = { good }
        .find(|bundle| last(bundle).starts_with('f'))
        .unwrap();
    let end = last(&good);
    let foreign = (0..).map(|n| format!("{{\"n\":{n}}}"));
    let foreign: Vec<String> = foreign.filter(|it| last(it) < end).take(100).collect();
    for bundle in &foreign[1..] {
        case.refer(bundle).await;
    }
    case.refer(&good).await;
    case.serves(&policy).await;
    case.refer(&foreign[0]).await;
    case.refused(&policy, "more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_by_certificate() {
    let Some(bench) = Bench::start().await else {
        return;
    };
    // Both forms of one signature, entered at a time.
    let signed = async |name: &'static str, leaf: &Leaf, time: i64| {
        let case = bench.case(name).await;
        let payload = case.payload().to_string();
        let signature = leaf.key.sign(payload.as_bytes());
        let promise = bench.promise(payload.as_bytes(), &signature, &leaf.pem, time);
        case.sign(payload.as_bytes(), &signature, &promise, Some(leaf))
            .await;
        let mut bundle = bench.sigstore.bundle(Ok(leaf), &case.statement(SIGN), true);
        let (envelope, body) = dsse(Ok(leaf), &case.statement(SIGN));
        bundle["dsseEnvelope"] = envelope;
        bundle["verificationMaterial"]["tlogEntries"][0] = bench.sigstore.entry(&body, time, true);
        case.refer(&bundle.to_string()).await;
        case
    };
    let both = |signer: &Value| {
        [
            signed_by(signer, "matchRepository"),
            signed_by(signer, "nacreMatchDigest"),
        ]
    };
    let trusting = bench.person(|_, _| {});
    let leaf = &bench.leaf;
    let case = signed("good", leaf, now()).await;
    for policy in both(&trusting) {
        case.serves(&policy).await;
    }
    for (name, edit, want) in [
        (
            "expired CA window",
            (|_, root| over(root)) as fn(&mut Value, &mut Value),
            "certificate",
        ),
        (
            "wrong issuer",
            |who, _| who["oidcIssuer"] = "https://x.example".into(),
            "issuer mismatch",
        ),
        (
            "wrong SAN",
            |who, _| who["subjectEmail"] = "x@example.com".into(),
            "identity mismatch",
        ),
        (
            "log whose time is over",
            |_, root| {
                root["tlogs"][0]["publicKey"]["validFor"] =
                    json!({ "start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z" });
            },
            "log",
        ),
        (
            "no CT log",
            |_, root| root["ctlogs"] = json!([]),
            "no CT log keys",
        ),
    ] {
        println!("{name}");
        let signer = bench.person(edit);
        for policy in both(&signer) {
            case.refused(&policy, want).await;
        }
    }
    let unlogged = bench.sigstore.certify(Ask {
        sct: false,
        ..person()
    });
    for (name, leaf, time, want) in [
        (
            "time before the certificate",
            leaf,
            now() - DAYS,
            "certificate",
        ),
        ("time to come", leaf, now() + DAYS, "future"),
        ("missing SCT", &unlogged, now(), "SCT"),
    ] {
        let case = signed(name, leaf, time).await;
        for policy in both(&trusting) {
            case.refused(&policy, want).await;
        }
    }
    let by_digest = signed_by(&trusting, "nacreMatchDigest");
    let case = bench.case("body of another signature").await;
    let mut bundle = bench.sigstore.bundle(Ok(leaf), &case.statement(SIGN), true);
    let (_, body) = dsse(Ok(leaf), &case.statement(SIGN));
    bundle["verificationMaterial"]["tlogEntries"][0] = bench.sigstore.entry(&body, now(), true);
    case.refer(&bundle.to_string()).await;
    case.refused(&by_digest, "does not match any signature in Rekor entry")
        .await;
    let case = bench.case("duplicate JSON keys").await;
    let bundle = bench.sigstore.bundle(Ok(leaf), &case.statement(SIGN), true);
    let twice = bundle.to_string().replacen('{', "{\"mediaType\":\"x\",", 1);
    case.refer(&twice).await;
    case.refused(&by_digest, "duplicate key \"mediaType\"")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_in_both_forms() {
    let Some(bench) = Bench::start().await else {
        return;
    };
    let (key, leaf) = (&bench.key, &bench.leaf);
    let root = b64(bench.sigstore.trusted_root().to_string().as_bytes());
    let by_key = json!({
        "keyData": b64(key.public_pem().as_bytes()), "nacreTrustedRootData": root,
    });
    let by_person = bench.person(|_, _| {});
    let other = Digest::sha256(b"another image");
    for (signer, asked) in [(Ok(leaf), &by_person), (Err(key), &by_key)] {
        let policy = attested_by(asked);
        let leaf = signer.ok();
        // In both forms: an envelope, what the log has, and when.
        let made = async |name: &'static str,
                          statement: &dyn Fn(&Case) -> String,
                          body: Option<&dyn Fn(&Case) -> String>,
                          time: i64,
                          want: Option<&str>| {
            for bundled in [false, true] {
                let case = bench.case(name).await;
                let (envelope, mut entry) = dsse(signer, &statement(&case));
                if let Some(body) = body {
                    entry = body(&case);
                }
                match bundled {
                    false => {
                        let promise = bench.sigstore.promise(&entry, time);
                        case.attest(&envelope.to_string(), &promise, leaf).await;
                    }
                    true => {
                        let mut bundle = bench.sigstore.bundle(signer, &statement(&case), true);
                        bundle["dsseEnvelope"] = envelope;
                        bundle["verificationMaterial"]["tlogEntries"][0] =
                            bench.sigstore.entry(&entry, time, true);
                        case.refer(&bundle.to_string()).await;
                    }
                }
                match want {
                    Some(want) => case.refused(&policy, want).await,
                    None => case.serves(&policy).await,
                }
            }
        };
        let good = |case: &Case| case.statement(SPDX);
        made("good", &good, None, now(), None).await;
        let about_other = |_: &Case| statement(&other, SPDX);
        let want = Some("does not match any subject");
        made("wrong digest", &about_other, None, now(), want).await;
        let sign = |case: &Case| case.statement(SIGN);
        made("wrong type", &sign, None, now(), Some("none of")).await;
        let twice = |case: &Case| case.statement(SPDX).replacen('{', "{\"_type\":\"x\",", 1);
        let want = Some("duplicate key \"_type\"");
        made("duplicate JSON keys", &twice, None, now(), want).await;
        let again = |case: &Case| dsse(signer, &case.statement(SPDX)).1;
        let want = Some("does not match any signature in Rekor entry");
        made(
            "body of another signature",
            &good,
            Some(&again),
            now(),
            want,
        )
        .await;
        made("time to come", &good, None, now() + DAYS, Some("future")).await;
        if leaf.is_some() {
            let early = now() - DAYS;
            let want = Some("certificate");
            made("time before the certificate", &good, None, early, want).await;
        }

        // Of the older form alone, and of bundles alone.
        let case = bench.case("tampered SET").await;
        let (envelope, body) = dsse(signer, &good(&case));
        let mut promise = bench.sigstore.promise(&body, now());
        promise["Payload"]["integratedTime"] = (now() - 1000).into();
        case.attest(&envelope.to_string(), &promise, leaf).await;
        case.refused(&policy, "SET verification failed").await;
        let case = bench.case("v0.1 relabel").await;
        let bundle = bench.sigstore.bundle(signer, &good(&case), true);
        case.refer(&relabel(bundle)).await;
        case.refused(&policy, "only promised by the log").await;
        let case = bench.case("too many").await;
        let (envelope, body) = dsse(signer, &good(&case));
        let promise = bench.sigstore.promise(&body, now());
        let mut layers = Vec::new();
        for n in 0..100 {
            layers.push(
                case.layer(ENVELOPE, format!("{{\"n\":{n}}}").as_bytes(), &[])
                    .await,
            );
        }
        let mut notes = vec![("sigstore.cosign/bundle", promise.to_string())];
        notes.extend(leaf.map(|it| ("sigstore.cosign/certificate", it.pem.clone())));
        let text = envelope.to_string();
        layers.push(case.layer(ENVELOPE, text.as_bytes(), &notes).await);
        case.tag("att", &layers).await;
        case.refused(&policy, "\"payloadType\" is missing").await;
        case.tag("att", &layers[1..]).await;
        case.serves(&policy).await;
    }
    // Whom the policy does not name, and whom nobody vouches for.
    let case = bench.case("by a certificate").await;
    let bundle = bench.sigstore.bundle(Ok(leaf), &case.statement(SPDX), true);
    case.refer(&bundle.to_string()).await;
    let strange = json!({ "keyData": b64(Key::generate().public_pem().as_bytes()) });
    case.refused(&attested_by(&strange), "not signed by this key")
        .await;
    for (edit, want) in [
        (
            (|_, root| over(root)) as fn(&mut Value, &mut Value),
            "certificate",
        ),
        (
            |who, _| who["oidcIssuer"] = "https://x.example".into(),
            "issuer mismatch",
        ),
        (
            |who, _| who["subjectEmail"] = "x@example.com".into(),
            "identity mismatch",
        ),
        (|_, root| root["ctlogs"] = json!([]), "no CT log keys"),
    ] {
        case.refused(&attested_by(&bench.person(edit)), want).await;
    }
    let case = bench.case("missing SCT").await;
    let unlogged = bench.sigstore.certify(Ask {
        sct: false,
        ..person()
    });
    let bundle = bench
        .sigstore
        .bundle(Ok(&unlogged), &case.statement(SPDX), true);
    case.refer(&bundle.to_string()).await;
    case.refused(&attested_by(&by_person), "SCT").await;
}

/// `--tag-history` of the commands: what one has seen, the next one knows.
#[tokio::test(flavor = "multi_thread")]
async fn tags_that_go_back_by_command() {
    let registry = FakeRegistry::start().await;
    let layers = |text: &str| [lazy(Format::Estargz, &[("file", text.as_bytes())])];
    let old = put(&registry, "team/app", &layers("old"));
    let home = tempfile::tempdir().unwrap();
    let history = home.path().join("tags.json").display().to_string();
    let nacre = |words: &[&str]| {
        let options = [
            "--insecure-policy",
            "accept-anything",
            "--tag-history",
            &history,
        ];
        run(home.path(), [words, &options[..]].concat())
    };
    let bundle = home.path().join("bundle").display().to_string();
    nacre(&["pull", &old.reference, &bundle]).ok();
    let new = put(&registry, "team/app", &layers("new"));
    assert_eq!(nacre(&["cat", &new.reference, "/file"]).text(), "new");
    put(&registry, "team/app", &layers("old"));
    let again = home.path().join("again").display().to_string();
    let gone = "the tag has gone back to";
    for words in [
        &["pull", &old.reference, &again][..],
        &["cat", &old.reference, "/file"],
        &["verify", &old.reference],
        &["mount", &old.reference, &bundle],
        &["image", "measure", &old.reference],
    ] {
        nacre(words).failed(4, &[gone, &old.manifest.digest.to_string(), "tags.json"]);
    }
    assert!(!Path::new(&again).exists());
    // By digest it may be had.
    let pinned = old.reference.rsplit_once(':').unwrap().0.to_owned();
    let pinned = format!("{pinned}@{}", old.manifest.digest);
    assert_eq!(nacre(&["cat", &pinned, "/file"]).text(), "old");
    std::fs::write(&history, "{").unwrap();
    nacre(&["verify", &new.reference]).failed(3, &["tag history", "remove the file"]);
}
