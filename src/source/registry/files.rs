//! Reads one file of a lookaside.

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use reqwest::{StatusCode, header::LOCATION};
use url::Url;

use super::{
    super::{
        answer::{self, network, passing, stalled},
        endpoint::Endpoint,
        retry::{Failure, Retry},
        transport::{is_redirect, redirect_target},
    },
    Lookaside,
};
use crate::{
    error::{Error, Result},
    source::{AnswerClass, Traffic},
};

/// Reads below one URL.
pub(super) struct Reader<'a> {
    lookaside: &'a Lookaside,
    base: Url,
    kind: Kind,
}

enum Kind {
    Directory(PathBuf),
    Web(reqwest::Client),
}

/// Largest signature that is fetched; real ones have 1 to 2 KiB.
const MAX_SIGNATURE: u64 = 256 << 10;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

// === impl Lookaside ===

impl Lookaside {
    pub(super) fn reader(&self, base: &Url) -> Result<Reader<'_>> {
        let kind = match base.scheme() {
            "file" => Kind::Directory(directory(base)?),
            _ => {
                let host = base.host_str().unwrap_or_default();
                let endpoint = Endpoint::registry(host, &self.options, &self.certificates)?;
                Kind::Web(endpoint.connections()?)
            }
        };
        Ok(Reader {
            lookaside: self,
            base: base.clone(),
            kind,
        })
    }
}

/// The directory of a `file` URL.
fn directory(base: &Url) -> Result<PathBuf> {
    base.to_file_path()
        .map_err(|()| Error::invalid(format!("lookaside {base}: not a directory")))
}

// === impl Reader ===

impl Reader<'_> {
    /// Where a file is, for messages; without what may be a password.
    pub(super) fn place(&self, name: &str) -> String {
        match &self.kind {
            Kind::Directory(directory) => directory.join(name).display().to_string(),
            Kind::Web(_) => {
                let mut url = self.url(name);
                let _ = url.set_password(None);
                url.to_string()
            }
        }
    }

    /// A file's bytes; `None` if there is none.
    pub(super) async fn read(&self, name: &str, traffic: &Traffic) -> Result<Option<Bytes>> {
        let what = self.place(name);
        match &self.kind {
            Kind::Directory(directory) => {
                let path = directory.join(name);
                let read = tokio::task::spawn_blocking(move || read_file(path));
                read.await
                    .map_err(|e| Error::internal(what).with_source(e))?
            }
            Kind::Web(http) => {
                let options = &self.lookaside.options;
                let environment = std::sync::Arc::clone(&options.environment);
                let mut retry = Retry::new(options.retry, environment, options.deadline);
                loop {
                    let tried = self.fetch(http, self.url(name), &what, traffic).await;
                    match tried {
                        Ok(found) => return Ok(found),
                        Err(failure) => retry.wait(failure).await?,
                    }
                }
            }
        }
    }

    fn url(&self, name: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}/{name}", self.base.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    async fn fetch(
        &self,
        http: &reqwest::Client,
        mut url: Url,
        what: &str,
        traffic: &Traffic,
    ) -> Result<Option<Bytes>, Failure> {
        let options = &self.lookaside.options;
        let patience = options.stall_timeout;
        for _ in 0..=MAX_REDIRECTS {
            traffic.request();
            let sent = tokio::time::timeout(patience, http.get(url.clone()).send()).await;
            let answered = match sent {
                Err(_) => Err(stalled(what, patience)),
                Ok(answer) => answer.map_err(|e| network(what, e)),
            };
            traffic.answer(match &answered {
                Ok(response) => AnswerClass::of(response.status().as_u16()),
                Err(_) => AnswerClass::Nothing,
            });
            let mut response = answered?;
            let status = response.status();
            if let Some(failure) = passing(what, status, response.headers(), &*options.environment)
            {
                return Err(failure);
            }
            if is_redirect(status) {
                let location = response.headers().get(LOCATION);
                url = location
                    .and_then(|it| it.to_str().ok())
                    .and_then(|it| redirect_target(&url, it))
                    .ok_or_else(|| {
                        let said = "a redirect to nowhere, or from https to something less";
                        Failure::fatal(Error::unavailable(format!("{what}: {said}")))
                    })?;
                continue;
            }
            return match status {
                StatusCode::OK => {
                    let mut all = BytesMut::new();
                    while let Some(piece) =
                        answer::chunk(&mut response, what, patience, traffic).await?
                    {
                        all.extend_from_slice(&piece);
                        if all.len() as u64 > MAX_SIGNATURE {
                            return Err(Failure::fatal(too_large(what)));
                        }
                    }
                    Ok(Some(all.freeze()))
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::fatal(
                    Error::denied(format!("{what}: the lookaside answered {status}")),
                )),
                _ => Err(Failure::fatal(Error::unavailable(format!(
                    "{what}: the lookaside answered {status}"
                )))),
            };
        }
        Err(Failure::fatal(Error::unavailable(format!(
            "{what}: more than {MAX_REDIRECTS} redirects"
        ))))
    }
}

fn read_file(path: PathBuf) -> Result<Option<Bytes>> {
    let what = path.display().to_string();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIGNATURE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(what.clone(), e))?;
    match bytes.len() as u64 > MAX_SIGNATURE {
        true => Err(too_large(&what)),
        false => Ok(Some(bytes.into())),
    }
}

fn too_large(what: &str) -> Error {
    Error::invalid(format!("{what}: larger than {MAX_SIGNATURE} bytes"))
}
