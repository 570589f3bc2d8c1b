//! Ranges of a blob in a registry.
//!
//! A registry that redirects to a store elsewhere is asked once; the next ranges go to the store
//! directly until it refuses. Every answer is checked to be the range that was asked for. Several
//! ranges are asked for at once where the host answers them so; where it does not, those near each
//! other are read with what lies between.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use reqwest::{
    Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
    },
};
use url::Url;

use super::{
    auth::Actions,
    body::{Body, Reader},
    handed::RepositoryLogins,
    header::{ContentRange, content_range},
    multipart::Multipart,
    pieces,
    repository::RegistryRepository,
    retry::{Failure, RetryPolicy},
    transport::{Exchange, Registry, Request, Target},
    wanted::Wanted,
};
use crate::{
    error::{Error, Kind, Result},
    oci::{Descriptor, Digest},
    source::{BlobSource, BlobStream, PlacedStream, Traffic, check_range, check_ranges},
};

/// A blob in a registry.
#[derive(Debug)]
pub(super) struct RegistryBlob(Arc<Inner>);

pub(super) struct Inner {
    pub(super) registry: Arc<Registry>,
    pub(super) traffic: Arc<Traffic>,
    /// When requests are tried again.
    pub(super) retry: RetryPolicy,
    handed: Option<Arc<RepositoryLogins>>,
    path: String,
    digest: Digest,
    size: u64,
    redirect: Mutex<Option<Url>>,
}

/// Ranges that are asked for in one request: their header stays below what servers take.
const MAX_RANGES: usize = 100;
/// Where ranges cannot be asked for at once, gaps up to this size are read with what lies around
/// them: a request each would take longer.
const JOINED_GAP: u64 = 1 << 20;

// === impl RegistryBlob ===

impl RegistryBlob {
    pub(super) fn of(repository: &RegistryRepository, descriptor: &Descriptor) -> Self {
        Self(Arc::new(Inner {
            registry: Arc::clone(&repository.registry),
            traffic: Arc::clone(&repository.traffic),
            retry: repository.retry,
            handed: repository.handed.clone(),
            path: repository.path.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            redirect: Mutex::default(),
        }))
    }

    pub(super) fn into_inner(self) -> Arc<Inner> {
        self.0
    }

    fn read(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Reader {
        Reader::new(Arc::clone(&self.0), Wanted::new(ranges))
    }

    fn deadline(&self) -> Duration {
        self.0.registry.options.deadline
    }
}

impl BlobSource for RegistryBlob {
    fn digest(&self) -> &Digest {
        &self.0.digest
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(async move {
            check_range(self, &range)?;
            pieces::whole(self.read([range]), self.deadline()).await
        })
    }

    fn read_pieces(&self, range: Range<u64>) -> BoxFuture<'_, Result<BlobStream>> {
        Box::pin(async move {
            check_range(self, &range)?;
            let pieces = pieces::placed(self.read([range]), self.deadline());
            Ok(pieces.map_ok(|(_, piece)| piece).boxed())
        })
    }

    fn read_ranges(&self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<PlacedStream>> {
        Box::pin(async move {
            check_ranges(self, &ranges)?;
            Ok(pieces::placed(self.read(ranges), self.deadline()))
        })
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let whole = Range {
            start: 0,
            end: self.0.size,
        };
        let stream = pieces::streamed(self.read([whole]), self.deadline());
        Box::pin(async move { Ok(stream) })
    }
}

// === impl Inner ===

impl Inner {
    /// For messages.
    pub(super) fn what(&self) -> String {
        format!(
            "blob {} of {}/{}",
            self.digest,
            self.registry.host(),
            self.path
        )
    }

    /// Opens an answer that has what comes next, and perhaps more of what is wanted.
    pub(super) async fn open(&self, wanted: &Wanted) -> Result<Body, Failure> {
        if wanted.only().is_none() && self.registry.answers_ranges() {
            let wanted = wanted.first(MAX_RANGES);
            if let Some(body) = self.open_ranges(&wanted).await? {
                return Ok(body);
            }
            self.registry.answers_single_ranges();
        }
        let joined = wanted.joined(JOINED_GAP);
        self.open_range(joined.unwrap_or(0..self.size)).await
    }

    /// Asks for several ranges at once; nothing if the host does not answer them.
    async fn open_ranges(&self, wanted: &Wanted) -> Result<Option<Body>, Failure> {
        let ranges = header(wanted.iter())?;
        let response = self.get(Some(&ranges)).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::BAD_REQUEST => {
                return Ok(None);
            }
            // Has nothing to do with how many there are.
            _ => return Err(self.refused(response).await),
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let parts = content_type.and_then(|it| Multipart::of(it, self.size));
        Ok(parts.map(|parts| Body::parts(response, parts)))
    }

    /// Opens an answer that begins at or before `range` and has bytes of it.
    async fn open_range(&self, range: Range<u64>) -> Result<Body, Failure> {
        let whole = range == (0..self.size);
        let asked = header([&range])?;
        let response = self.get((!whole).then_some(&asked)).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if !whole => self.partial(response, &range),
            StatusCode::OK => self.complete(response, &range),
            StatusCode::RANGE_NOT_SATISFIABLE => self.unsatisfied(&response, &range).await,
            _ => Err(self.refused(response).await),
        }
    }

    async fn refused(&self, response: Response) -> Failure {
        let what = self.what();
        let error = self.registry.refusal(response, &what, &self.traffic).await;
        Failure::fatal(error)
    }

    /// One request: to the store that the last redirect named, or to the registry.
    async fn get(&self, range: Option<&HeaderValue>) -> Result<Response, Failure> {
        if let Some(url) = self.redirect() {
            let exchange = self.request(Method::GET, Target::Url(url), range).await;
            if exchange.is_err() {
                // The store may be away for good: the next try lets the registry name one.
                self.redirect_to(None);
            }
            let exchange = exchange?;
            let status = exchange.response.status();
            let refused = status.is_client_error() && status != StatusCode::RANGE_NOT_SATISFIABLE;
            if !refused {
                return Ok(exchange.response);
            }
            // The store's link has ended: ask the registry for another one.
            self.redirect_to(None);
        }
        let target = Target::Path(self.location());
        let exchange = self.request(Method::GET, target, range).await?;
        if exchange.response.status().is_success() {
            self.redirect_to(exchange.redirected);
        }
        Ok(exchange.response)
    }

    async fn request(
        &self,
        method: Method,
        target: Target,
        range: Option<&HeaderValue>,
    ) -> Result<Exchange, Failure> {
        let mut headers = HeaderMap::new();
        // Offsets are offsets of the blob, not of a compressed transfer of it.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            headers.insert(RANGE, range.clone());
        }
        let what = self.what();
        self.registry
            .exchange(&Request {
                method,
                target,
                headers,
                body: None,
                path: &self.path,
                actions: Actions::Pull,
                from: None,
                handed: self.handed.as_deref(),
                traffic: &self.traffic,
                what: &what,
            })
            .await
    }

    /// 206: it must begin where we asked and be of a blob of our size.
    fn partial(&self, response: Response, range: &Range<u64>) -> Result<Body, Failure> {
        let said = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(content_range);
        match said {
            Some(ContentRange::Part {
                total: Some(total), ..
            }) if total != self.size => Err(self.other_size(total)),
            Some(ContentRange::Part { start, end, .. })
                if start == range.start && end <= range.end =>
            {
                Ok(Body::run(response, start, end))
            }
            _ => Err(Failure::passing(Error::unavailable(format!(
                "{}: asked for bytes {}..{}, answered another range",
                self.what(),
                range.start,
                range.end
            )))),
        }
    }

    /// 200: the blob from its start. What comes before the range is thrown away if it is short.
    fn complete(&self, response: Response, range: &Range<u64>) -> Result<Body, Failure> {
        if let Some(length) = length(&response)
            && length != self.size
        {
            return Err(self.other_size(length));
        }
        let limit = self.registry.options.max_skip;
        if range.start > limit {
            return Err(Failure::passing(
                Error::new(
                    Kind::Unsupported,
                    format!(
                        "{}: the registry ignores ranges (bytes {}..{} asked for)",
                        self.what(),
                        range.start,
                        range.end
                    ),
                )
                .with_hint("without ranges an image can only be pulled whole: `nacre pull`"),
            ));
        }
        Ok(Body::run(response, 0, self.size))
    }

    /// 416 for a range within the descriptor's size: the blob is another one, or the registry
    /// cannot do ranges and says so in this way.
    async fn unsatisfied(&self, response: &Response, range: &Range<u64>) -> Result<Body, Failure> {
        let said = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(content_range);
        let total = match said {
            Some(ContentRange::Unsatisfied { total }) => Some(total),
            _ => {
                let target = Target::Path(self.location());
                let head = self.request(Method::HEAD, target, None).await?;
                length(&head.response).filter(|_| head.response.status() == StatusCode::OK)
            }
        };
        match total {
            Some(total) if total == self.size => {
                let response = self.get(None).await?;
                if response.status() == StatusCode::OK {
                    self.complete(response, range)
                } else {
                    Err(Failure::passing(Error::unavailable(format!(
                        "{}: bytes {}..{} refused",
                        self.what(),
                        range.start,
                        range.end
                    ))))
                }
            }
            Some(total) => Err(self.other_size(total)),
            None => Err(Failure::fatal(Error::corrupt(format!(
                "{}: shorter than its descriptor says: no bytes {}..{}",
                self.what(),
                range.start,
                range.end
            )))),
        }
    }

    fn other_size(&self, total: u64) -> Failure {
        let than = if total < self.size {
            "shorter"
        } else {
            "longer"
        };
        Failure::fatal(Error::corrupt(format!(
            "{}: {total} bytes, {than} than the {} of its descriptor",
            self.what(),
            self.size
        )))
    }

    fn location(&self) -> String {
        format!("/{}/blobs/{}", self.path, self.digest)
    }

    fn redirect(&self) -> Option<Url> {
        self.redirect
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn redirect_to(&self, url: Option<Url>) {
        *self.redirect.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())
    }
}

/// `Range`, of ranges that are not empty.
fn header<'a>(ranges: impl IntoIterator<Item = &'a Range<u64>>) -> Result<HeaderValue, Failure> {
    let ranges: Vec<String> = ranges
        .into_iter()
        .map(|range| format!("{}-{}", range.start, range.end.saturating_sub(1)))
        .collect();
    HeaderValue::from_str(&format!("bytes={}", ranges.join(",")))
        .map_err(|_| Error::internal("range does not fit into a header").into())
}

/// `Content-Length`, which is also there for `HEAD`.
fn length(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
}
