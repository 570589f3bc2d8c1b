//! Manifests and referrers of one repository in a registry.

use std::{pin::pin, sync::Arc};

use bytes::BytesMut;
use futures::future::BoxFuture;
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LINK},
};
use url::Url;

use super::{
    answer,
    auth::Actions,
    blob::RegistryBlob,
    handed::RepositoryLogins,
    header::next_link,
    peers,
    retry::{Failure, Retry, RetryPolicy},
    transport::{Exchange, Registry, Request, Target},
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Document, Location, MAX_MANIFEST, RawManifest, media_type},
    source::{BlobSource, DetachedSignature, Repository, Traffic, referrers},
};

/// Reads one repository.
#[derive(Debug)]
pub(super) struct RegistryRepository {
    pub(super) registry: Arc<Registry>,
    pub(super) path: String,
    pub(super) traffic: Arc<Traffic>,
    /// What reads are authorized with: a writer that reads asks for one token, not two.
    pub(super) actions: Actions,
    /// Logins that were handed over for it.
    pub(super) handed: Option<Arc<RepositoryLogins>>,
    /// When requests are tried again.
    pub(super) retry: RetryPolicy,
}

/// What is accepted as a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Pages of a referrers list that are followed.
const MAX_PAGES: usize = 32;

/// The registry's last word on a document.
pub(super) enum Answer {
    Found(Fetched),
    Refused(StatusCode, Error),
}

/// A document's bytes and what the answer says it is.
pub(super) struct Fetched {
    pub(super) bytes: bytes::Bytes,
    media_type: String,
    next: Option<Target>,
}

// === impl RegistryRepository ===

impl RegistryRepository {
    pub(super) fn new(registry: Arc<Registry>, path: &str) -> Self {
        Self {
            retry: registry.options.retry,
            traffic: Arc::new(registry.traffic()),
            registry,
            path: path.to_owned(),
            actions: Actions::Pull,
            handed: None,
        }
    }

    /// Uses these logins first.
    pub(super) fn with_handed(self, handed: Option<Arc<RepositoryLogins>>) -> Self {
        Self { handed, ..self }
    }

    /// The repository on a host beside which there are others: each request is tried once, and its
    /// traffic is counted with theirs.
    pub(super) fn on_one_of_several(
        registry: Arc<Registry>,
        path: &str,
        traffic: Arc<Traffic>,
    ) -> Self {
        let host = Arc::clone(&registry.meter.traffic);
        Self {
            retry: peers::once(registry.options.retry),
            traffic: Arc::new(Traffic::within([traffic, host])),
            ..Self::new(registry, path)
        }
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.registry.host(), self.path)
    }

    /// GETs a document of at most 4 MiB.
    pub(super) async fn document(
        &self,
        target: &Target,
        accept: &'static str,
        what: &str,
    ) -> Result<Answer> {
        let mut retry = self.registry.retry_by(self.retry);
        let deadline = self.registry.options.deadline;
        tokio::time::timeout(deadline, self.persist(target, accept, what, &mut retry))
            .await
            .unwrap_or_else(|_| {
                Err(Error::unavailable(format!(
                    "{what}: not here after {deadline:?}"
                )))
            })
    }

    async fn persist(
        &self,
        target: &Target,
        accept: &'static str,
        what: &str,
        retry: &mut Retry,
    ) -> Result<Answer> {
        loop {
            match self.attempt(target, accept, what).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => retry.wait(failure).await?,
            }
        }
    }

    async fn attempt(
        &self,
        target: &Target,
        accept: &'static str,
        what: &str,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let Exchange { response, .. } = self
            .registry
            .exchange(&Request {
                method: Method::GET,
                target: target.clone(),
                headers,
                body: None,
                path: &self.path,
                actions: self.actions,
                from: None,
                handed: self.handed.as_deref(),
                traffic: &self.traffic,
                what,
            })
            .await?;
        let status = response.status();
        if status != StatusCode::OK {
            let error = self.registry.refusal(response, what, &self.traffic).await;
            return Ok(Answer::Refused(status, error));
        }
        self.collect(response, what).await.map(Answer::Found)
    }

    async fn collect(&self, mut response: Response, what: &str) -> Result<Fetched, Failure> {
        let text = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let media_type = text(CONTENT_TYPE).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_owned();
        let next = text(LINK)
            .and_then(next_link)
            .and_then(|link| response.url().join(link).ok());
        let next = next.and_then(|url| same_origin(response.url(), &url).then_some(url));
        let mut all = BytesMut::new();
        let patience = self.registry.options.stall_timeout;
        while let Some(piece) = answer::chunk(&mut response, what, patience, &self.traffic).await? {
            if (all.len() + piece.len()) as u64 > MAX_MANIFEST {
                return Err(Failure::fatal(Error::invalid(format!(
                    "{what}: more than {MAX_MANIFEST} bytes"
                ))));
            }
            all.extend_from_slice(&piece);
        }
        Ok(Fetched {
            bytes: all.freeze(),
            media_type,
            next: next.map(Target::Url),
        })
    }

    async fn fetch(&self, location: &Location) -> Result<RawManifest> {
        let what = format!("manifest {location} of {}", self.full_name());
        let target = Target::Path(format!("/{}/manifests/{location}", self.path));
        let fetched = match self.document(&target, MANIFESTS, &what).await? {
            Answer::Found(fetched) => fetched,
            Answer::Refused(_, error) if error.kind() == Kind::NotFound => {
                return Err(error.context(match location {
                    Location::Tag(tag) => format!("no tag {tag} in {}", self.full_name()),
                    Location::Digest(digest) => {
                        format!("no manifest {digest} in {}", self.full_name())
                    }
                }));
            }
            Answer::Refused(_, error) => return Err(error),
        };
        let mut raw = RawManifest::new(fetched.media_type, fetched.bytes);
        if let Location::Digest(asked) = location {
            if !asked.matches(&raw.bytes) {
                return Err(Error::corrupt(format!(
                    "{what}: the answer has digest {}",
                    raw.digest
                )));
            }
            raw.digest = asked.clone();
        }
        Ok(raw)
    }

    /// The referrers API; `None` if the registry does not have it.
    async fn listed(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>> {
        let what = format!("referrers of {subject} in {}", self.full_name());
        let mut found = Vec::new();
        let mut target = Target::Path(format!("/{}/referrers/{subject}", self.path));
        for page in 0..MAX_PAGES {
            let fetched = match self.document(&target, media_type::OCI_INDEX, &what).await? {
                Answer::Found(fetched) => fetched,
                Answer::Refused(status, _) if page == 0 && lacks_api(status) => return Ok(None),
                Answer::Refused(_, error) => return Err(error),
            };
            let raw = RawManifest::new(fetched.media_type, fetched.bytes);
            let index = match raw.parse() {
                Ok(Document::Index(index)) => index,
                _ if page == 0 => return Ok(None),
                _ => break,
            };
            found.extend(index.manifests);
            if found.len() >= referrers::MAX_REFERRERS {
                tracing::warn!("{what}: more than {} listed", referrers::MAX_REFERRERS);
                found.truncate(referrers::MAX_REFERRERS);
                break;
            }
            match fetched.next {
                Some(next) => target = next,
                None => break,
            }
        }
        Ok(Some(found))
    }

    /// The index under the fallback tag; empty if there is none.
    pub(super) async fn fallback(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let tag = Location::Tag(referrers::fallback_tag(subject));
        match self.fetch(&tag).await {
            Ok(list) => Ok(referrers::listed(&list)),
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Repository for RegistryRepository {
    fn name(&self) -> String {
        self.full_name()
    }

    fn manifest<'a>(&'a self, location: &'a Location) -> BoxFuture<'a, Result<RawManifest>> {
        Box::pin(self.fetch(location))
    }

    fn blob(&self, descriptor: &Descriptor) -> Arc<dyn BlobSource> {
        Arc::new(RegistryBlob::of(self, descriptor))
    }

    fn referrers<'a>(&'a self, subject: &'a Digest) -> BoxFuture<'a, Result<Vec<Descriptor>>> {
        Box::pin(async move {
            // Both at once: many registries do not have the API, and a round trip before every mount
            // costs more than a request.
            let mut fallback = pin!(self.fallback(subject));
            let mut early = None;
            let mut listed = pin!(self.listed(subject));
            let listed = loop {
                tokio::select! {
                    biased;
                    listed = &mut listed => break listed,
                    found = &mut fallback, if early.is_none() => early = Some(found),
                }
            };
            match (listed?, early) {
                (Some(found), _) => Ok(found),
                (None, Some(found)) => found,
                (None, None) => fallback.await,
            }
        })
    }

    fn signatures<'a>(
        &'a self,
        subject: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Vec<DetachedSignature>>>> {
        Box::pin(self.stored_signatures(subject))
    }

    fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

/// Whether a refusal of the referrers request means that there is no such API. The specification
/// says 404; some registries and proxies say it in other ways.
fn lacks_api(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED
    )
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}
