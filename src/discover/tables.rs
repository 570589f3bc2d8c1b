//! Where documents lie: a directory with local files first, then a web server.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use url::Url;

use super::{
    info::{Info, Wanted},
    measurements::Measurements,
    name::{Form, Name},
};
use crate::{
    error::{Error, Result},
    source::{Traffic, registry::Client},
    trust::{PublicKey, json},
};

/// The places where documents are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// The directory with local files.
    pub local: &'a Path,
    /// Where paths of documents begin.
    pub base: &'a Url,
    /// Reaches the web server.
    pub client: &'a Client,
}

/// A document, and where it was.
#[derive(Clone, Debug)]
pub struct Found {
    /// File or URL.
    pub place: String,
    /// Whether it is a local file.
    pub local: bool,
    /// Its form.
    pub form: Form,
    bytes: Bytes,
}

/// Largest document that is read; tables of all regions have some KiB.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest signature file.
const MAX_SIGNATURE: u64 = 64 << 10;
const WHAT: &str = "lookup server";

// === impl Tables ===

impl Tables<'_> {
    /// The same name with a version, if it stands for the newest.
    ///
    /// # Errors
    /// `NotFound` if no document names it; `Invalid` if that is malformed or about something else.
    pub async fn resolve(&self, name: &Name) -> Result<Name> {
        if !name.is_latest() {
            return Ok(name.clone());
        }
        let paths = [(Form::V1, name.latest_path())];
        let what = format!("newest version of {name}");
        let found = self.find(&what, &paths).await?;
        let read = || -> Result<String, json::Fault> {
            let root = json::parse(&found.bytes)?;
            for (field, want) in [("ref", name.reference()), ("stream", name.stream())] {
                let node = root.want(field)?;
                if node.string()? != want {
                    return Err(node.fault(format!("{field} is not {want:?}")));
                }
            }
            let kind = root.want("kind")?;
            if kind.string()? != "image" {
                return Err(kind.fault("kind is not \"image\""));
            }
            Ok(root.want("version")?.string()?.to_owned())
        };
        let version = read().map_err(|f| Error::invalid(format!("{}: {f}", found.place)))?;
        name.with_version(&version)
            .map_err(|e| e.context(found.place.clone()))
    }

    /// The lookup table of `name`.
    ///
    /// # Errors
    /// `NotFound` if there is none: the message names the places; `Invalid` if it is malformed or
    /// about another image.
    pub async fn info(&self, name: &Name) -> Result<(Info, Found)> {
        let paths = [Form::V2, Form::V1].map(|form| (form, name.info_path(form)));
        let found = self
            .find(&format!("lookup table of {name}"), &paths)
            .await?;
        let info = Info::parse(&found.bytes, found.form, name)
            .map_err(|why| Error::invalid(format!("{}: {why}", found.place)))?;
        Ok((info, found))
    }

    /// The measurements of `name` for what is `wanted`, by `key`.
    ///
    /// # Errors
    /// As [`Measurements::verify`]; `NotFound` if file or signature is missing.
    pub async fn measurements(
        &self,
        name: &Name,
        wanted: &Wanted,
        key: &PublicKey,
    ) -> Result<(Measurements, Found)> {
        let provider = wanted.provider.to_ascii_lowercase();
        let path = |form: Form| name.measurements_path(form, &provider);
        let paths = [Form::V2, Form::V1].map(|form| (form, path(form)));
        let found = self
            .find(&format!("measurements of {name}"), &paths)
            .await?;
        let beside = format!("{}.sig", path(found.form));
        let signature = match found.local {
            true => self.in_directory(&beside, MAX_SIGNATURE).await?,
            false => self.on_server(&beside, MAX_SIGNATURE).await?,
        };
        let signature = signature
            .ok_or_else(|| Error::not_found(format!("{}.sig: no such file", found.place)))?;
        let verified =
            Measurements::verify(&found.bytes, &signature, key, found.form, name, wanted);
        let verified = verified.map_err(|e| e.context(found.place.clone()))?;
        Ok((verified, found))
    }

    /// The first of these documents that is there, local ones before others.
    async fn find(&self, what: &str, paths: &[(Form, String)]) -> Result<Found> {
        for local in [true, false] {
            for (form, path) in paths {
                let found = match local {
                    true => self.in_directory(path, MAX_DOCUMENT).await?,
                    false => self.on_server(path, MAX_DOCUMENT).await?,
                };
                if let Some(bytes) = found {
                    let place = match local {
                        true => self.file(path).display().to_string(),
                        false => self.client.files(self.base, WHAT)?.place(path),
                    };
                    return Ok(Found {
                        place,
                        local,
                        form: *form,
                        bytes,
                    });
                }
            }
        }
        let files = self.client.files(self.base, WHAT)?;
        let places: Vec<String> = paths
            .iter()
            .map(|(_, path)| format!("{} nor at {}", self.file(path).display(), files.place(path)))
            .collect();
        Err(Error::not_found(format!(
            "{what}: neither in {}",
            places.join(", nor in ")
        )))
    }

    /// The local file of a document: its path with everything odd as `_`.
    fn file(&self, path: &str) -> PathBuf {
        let kept = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let name: String = path
            .chars()
            .map(|c| if kept(c) { c } else { '_' })
            .collect();
        self.local.join(name)
    }

    async fn in_directory(&self, path: &str, max: u64) -> Result<Option<Bytes>> {
        let file = self.file(path);
        let read = tokio::task::spawn_blocking(move || read_file(&file, max));
        read.await
            .map_err(|e| Error::internal("local lookup table").with_source(e))?
    }

    async fn on_server(&self, path: &str, max: u64) -> Result<Option<Bytes>> {
        let files = self.client.files(self.base, WHAT)?;
        files.read(path, max, &Traffic::default()).await
    }
}

fn read_file(file: &Path, max: u64) -> Result<Option<Bytes>> {
    let name = file.display().to_string();
    let open = match std::fs::File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(name, error)),
    };
    let mut bytes = Vec::new();
    open.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(name.clone(), e))?;
    match bytes.len() as u64 > max {
        true => Err(Error::invalid(format!("{name}: larger than {max} bytes"))),
        false => Ok(Some(bytes.into())),
    }
}
