//! Pushes blobs and manifests to one repository in a registry.

use std::sync::Arc;

use futures::future::BoxFuture;
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use url::form_urlencoded;

use super::{
    auth::Actions,
    repository::RegistryRepository,
    retry::Failure,
    transport::{MakeBody, Registry, Request, Target},
    upload::{body_of, body_of_bytes},
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest, Location, RawManifest, RegistryReference},
    source::{BlobContent, RepositoryWriter, check_content, referrers},
};

/// Writes one repository.
#[derive(Debug)]
pub(super) struct RegistryWriter {
    reader: RegistryRepository,
}

/// Set by registries that keep the list of referrers themselves.
const OCI_SUBJECT: &str = "oci-subject";

// === impl RegistryWriter ===

impl RegistryWriter {
    pub(super) fn new(registry: Arc<Registry>, path: &str) -> Self {
        Self {
            reader: RegistryRepository {
                actions: Actions::PullPush,
                ..RegistryRepository::new(registry, path)
            },
        }
    }

    fn request<'a>(
        &'a self,
        method: Method,
        target: Target,
        headers: HeaderMap,
        body: Option<&'a MakeBody>,
        what: &'a str,
    ) -> Request<'a> {
        Request {
            method,
            target,
            headers,
            body,
            path: &self.reader.path,
            actions: Actions::PullPush,
            from: None,
            handed: None,
            traffic: &self.reader.traffic,
            what,
        }
    }

    async fn refusal(&self, response: Response, what: &str) -> Error {
        let registry = &self.reader.registry;
        registry.refusal(response, what, &self.reader.traffic).await
    }

    async fn push(&self, descriptor: &Descriptor, content: BlobContent) -> Result<()> {
        check_content(descriptor, &content).await?;
        let digest = &descriptor.digest;
        let what = format!("blob {digest} to {}", self.reader.full_name());
        let path = &self.reader.path;
        let registry = &self.reader.registry;
        let head = self.request(
            Method::HEAD,
            Target::Path(format!("/{path}/blobs/{digest}")),
            HeaderMap::new(),
            None,
            &what,
        );
        let head = registry.send(&head).await?.response;
        match head.status() {
            StatusCode::OK => return Ok(()),
            StatusCode::NOT_FOUND => {}
            _ => return Err(self.refusal(head, &what).await),
        }
        let body = body_of(content);
        let mut retry = registry.retry();
        loop {
            // An upload that was cut is not known to be usable: each try is a new one.
            match self.upload(descriptor, &*body.make, &what).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    // What was sent went wrong, not the sending.
                    if let Some(error) = body.failure() {
                        return Err(error.context(what));
                    }
                    // The time a long upload took does not count against its repetition.
                    retry.restart();
                    retry.wait(failure).await?;
                }
            }
        }
    }

    /// Has the registry take the blob from another of its repositories; whether it did.
    async fn mount(&self, descriptor: &Descriptor, from: &RegistryReference) -> Result<bool> {
        let registry = &self.reader.registry;
        if from.host() != registry.host() || from.path() == self.reader.path {
            return Ok(false);
        }
        let digest = &descriptor.digest;
        let what = format!("blob {digest} to {}", self.reader.full_name());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from.path())
            .finish();
        let target = Target::Path(format!("/{}/blobs/uploads/?{query}", self.reader.path));
        let asked = Request {
            from: Some(from.path()),
            ..self.request(Method::POST, target, headers, None, &what)
        };
        let answer = match registry.send(&asked).await {
            Ok(exchange) => exchange.response,
            // Who may not read the other repository may still write this one.
            Err(error) if error.kind() == Kind::Denied => return Ok(false),
            Err(error) => return Err(error),
        };
        match answer.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                self.cancel(&answer, &what).await;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Ends an upload that was begun instead of a mount. A registry that is not told ends it by
    /// itself, some day.
    async fn cancel(&self, begun: &Response, what: &str) {
        let registry = &self.reader.registry;
        let Ok(url) = registry.upload_location(begun, what) else {
            return;
        };
        let request = self.request(
            Method::DELETE,
            Target::Url(url),
            HeaderMap::new(),
            None,
            what,
        );
        if let Err(failure) = registry.exchange(&request).await {
            tracing::debug!(error = %failure.error, "an upload was not cancelled");
        }
    }

    /// `POST` for a session, `PUT` of everything.
    async fn upload(
        &self,
        descriptor: &Descriptor,
        body: &MakeBody,
        what: &str,
    ) -> Result<(), Failure> {
        let registry = &self.reader.registry;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let target = Target::Path(format!("/{}/blobs/uploads/", self.reader.path));
        let begin = self.request(Method::POST, target, headers, None, what);
        let begin = registry.exchange(&begin).await?.response;
        if begin.status() != StatusCode::ACCEPTED {
            return Err(Failure::fatal(self.refusal(begin, what).await));
        }
        let mut url = registry.upload_location(&begin, what)?;
        url.query_pairs_mut()
            .append_pair("digest", &descriptor.digest.to_string());
        drop(begin);
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        let put = self.request(Method::PUT, Target::Url(url), headers, Some(body), what);
        let put = registry.exchange(&put).await?.response;
        if put.status().is_success() {
            return Ok(());
        }
        let refused = put.status();
        let error = self.refusal(put, what).await;
        if refused == StatusCode::BAD_REQUEST && error.message().contains("DIGEST_INVALID") {
            return Err(Failure::fatal(Error::corrupt(format!(
                "{what}: the content does not have this digest"
            ))));
        }
        Err(Failure::fatal(error))
    }

    async fn push_manifest(&self, location: &Location, manifest: &RawManifest) -> Result<()> {
        if let Location::Digest(digest) = location
            && !digest.matches(&manifest.bytes)
        {
            return Err(Error::invalid(format!(
                "manifest {}: written as {digest}",
                manifest.digest
            )));
        }
        let answer = self.put_document(location, manifest).await?;
        if let Some((subject, descriptor)) = referrers::referrer(manifest)
            && !answer.headers().contains_key(OCI_SUBJECT)
        {
            self.list_referrer(&subject, descriptor).await?;
        }
        Ok(())
    }

    async fn put_document(&self, location: &Location, manifest: &RawManifest) -> Result<Response> {
        let what = format!("manifest {location} to {}", self.reader.full_name());
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| Error::invalid(format!("{what}: media type is not a header value")))?;
        headers.insert(CONTENT_TYPE, media_type);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.bytes.len()));
        let body = body_of_bytes(manifest.bytes.clone());
        let target = Target::Path(format!("/{}/manifests/{location}", self.reader.path));
        let put = self.request(Method::PUT, target, headers, Some(&*body), &what);
        let answer = self.reader.registry.send(&put).await?.response;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(self.refusal(answer, &what).await)
        }
    }

    /// Adds a referrer to the fallback tag, for registries without the referrers API. Two writers
    /// at once can lose one of the entries; the specification knows no way against it.
    async fn list_referrer(&self, subject: &Digest, descriptor: Descriptor) -> Result<()> {
        let listed = self.reader.fallback(subject).await?;
        if listed.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        let list = referrers::with_referrer(listed, descriptor)
            .map_err(|e| Error::internal("list of referrers").with_source(e))?;
        let tag = Location::Tag(referrers::fallback_tag(subject));
        self.put_document(&tag, &list).await.map(drop)
    }
}

impl RepositoryWriter for RegistryWriter {
    fn name(&self) -> String {
        self.reader.full_name()
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        content: BlobContent,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.push(descriptor, content))
    }

    fn mount_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        from: &'a RegistryReference,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.mount(descriptor, from))
    }

    fn put_manifest<'a>(
        &'a self,
        location: &'a Location,
        manifest: &'a RawManifest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.push_manifest(location, manifest))
    }
}
