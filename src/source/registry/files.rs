//! Files below one URL, each fetched whole: in a directory or on a web server that is no registry.
//!
//! Requests are retried within the deadline of [`Options`], redirects followed as long as they do not
//! lead to less than was asked for.

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use reqwest::{StatusCode, header::LOCATION};
use url::Url;

use super::{
    Options,
    answer::{self, network, passing, stalled},
    endpoint::Endpoint,
    retry::{Failure, Retry},
    transport::{is_redirect, redirect_target},
};
use crate::{
    error::{Error, Result},
    source::{AnswerClass, Traffic},
};

/// Files below one URL.
#[derive(Debug)]
pub struct Files<'a> {
    options: &'a Options,
    base: Url,
    /// What the place is called in messages.
    what: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory(PathBuf),
    Web(reqwest::Client),
}

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;

// === impl Files ===

impl<'a> Files<'a> {
    /// Files below `base`, whose scheme is `file`, `http` or `https`.
    pub(super) fn below(
        base: &Url,
        what: &'static str,
        options: &'a Options,
        certificates: &[reqwest::Certificate],
    ) -> Result<Self> {
        let kind = match base.scheme() {
            "file" => Kind::Directory(
                base.to_file_path()
                    .map_err(|()| Error::invalid(format!("{what} {base}: not a directory")))?,
            ),
            _ => {
                let host = base.host_str().unwrap_or_default();
                let endpoint = Endpoint::registry(host, options, certificates)?;
                Kind::Web(endpoint.connections()?)
            }
        };
        Ok(Self {
            options,
            base: base.clone(),
            what,
            kind,
        })
    }

    /// Where a file is, for messages; without what may be a password.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
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
    ///
    /// # Errors
    /// `Invalid` if it has more than `max` bytes, `Denied` or `Unavailable` if it is not given out,
    /// `Io` if it cannot be read.
    pub async fn read(&self, name: &str, max: u64, traffic: &Traffic) -> Result<Option<Bytes>> {
        let what = self.place(name);
        match &self.kind {
            Kind::Directory(directory) => {
                let path = directory.join(name);
                let read = tokio::task::spawn_blocking(move || read_file(path, max));
                read.await
                    .map_err(|e| Error::internal(what).with_source(e))?
            }
            Kind::Web(http) => {
                let options = self.options;
                let environment = std::sync::Arc::clone(&options.environment);
                let mut retry = Retry::new(options.retry, environment, options.deadline);
                loop {
                    let tried = self.fetch(http, self.url(name), &what, max, traffic).await;
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
        max: u64,
        traffic: &Traffic,
    ) -> Result<Option<Bytes>, Failure> {
        let options = self.options;
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
                        if all.len() as u64 > max {
                            return Err(Failure::fatal(too_large(what, max)));
                        }
                    }
                    Ok(Some(all.freeze()))
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::fatal(
                    Error::denied(format!("{what}: the {} answered {status}", self.what)),
                )),
                _ => Err(Failure::fatal(Error::unavailable(format!(
                    "{what}: the {} answered {status}",
                    self.what
                )))),
            };
        }
        Err(Failure::fatal(Error::unavailable(format!(
            "{what}: more than {MAX_REDIRECTS} redirects"
        ))))
    }
}

fn read_file(path: PathBuf, max: u64) -> Result<Option<Bytes>> {
    let what = path.display().to_string();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what, error)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(what.clone(), e))?;
    match bytes.len() as u64 > max {
        true => Err(too_large(&what, max)),
        false => Ok(Some(bytes.into())),
    }
}

fn too_large(what: &str, max: u64) -> Error {
    Error::invalid(format!("{what}: larger than {max} bytes"))
}
