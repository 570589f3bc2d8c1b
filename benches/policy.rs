//! What a policy of 1,000 scopes costs before every mount: reading the file, and deciding.
#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used)]

use std::{hint::black_box, path::Path, sync::Arc};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::BoxFuture;
use nacre::{
    Error, Result,
    oci::{Descriptor, Digest, Location, Platform, RawManifest, Reference, media_type},
    source::{BlobSource, MemoryBlob, Repository, Traffic},
    trust::{Policy, Request, admit},
};
use serde_json::json;

const SCOPES: usize = 1000;

/// A repository with one manifest and nothing else.
#[derive(Debug)]
struct One(RawManifest);

impl Repository for One {
    fn name(&self) -> String {
        "one".into()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(async move {
            match location {
                Location::Tag(tag) if tag == "v1" => Ok(self.0.clone()),
                other => Err(Error::not_found(other.to_string())),
            }
        })
    }

    fn blob(&self, _: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(MemoryBlob::new(Bytes::new()))
    }

    fn referrers<'a>(&'a self, _: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::default()
    }
}

fn text() -> String {
    let scopes: serde_json::Map<String, serde_json::Value> = (0..SCOPES)
        .map(|n| {
            let admits = json!([{ "type": "insecureAcceptAnything" }]);
            (format!("r{n}.example/team/app"), admits)
        })
        .collect();
    json!({ "default": [{ "type": "reject" }], "transports": { "docker": scopes } }).to_string()
}

fn policy(criterion: &mut Criterion) {
    let text = text();
    let parse = || Policy::parse(text.as_bytes(), Path::new("policy.json")).unwrap();
    criterion.bench_function("policy of 1,000 scopes: read", |b| {
        b.iter(|| black_box(parse()));
    });
    let policy = parse();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, b"{}"),
        "layers": [Descriptor::of(media_type::OCI_LAYER_GZIP, b"layer")],
    });
    let bytes = manifest.to_string().into();
    let repository = One(RawManifest::new(media_type::OCI_MANIFEST, bytes));
    let reference: Reference = "r999.example/team/app:v1".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let request = Request {
        policy: &policy,
        reference: &reference,
        repository: &repository,
        location: &Location::Tag("v1".into()),
        platform: &Platform::host(),
        expected_digest: None,
    };
    criterion.bench_function("policy of 1,000 scopes: decide", |b| {
        b.iter(|| runtime.block_on(admit(black_box(&request))).unwrap());
    });
}

criterion_group!(benches, policy);
criterion_main!(benches);
