//! The text of a `hosts.toml`, parsed strictly: what is not understood is refused with its line.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use url::Url;

use super::{Capabilities, ClientCertificate, Host, Scheme, Server};
use crate::{
    error::{Error, Result},
    source::registry::duration,
};

/// Hosts of one registry; each is asked before an operation fails.
const MAX_HOSTS: usize = 32;

/// Reads a file's hosts in the order they are written, the server last. Relative paths are relative
/// to `directory`.
///
/// # Errors
/// `Invalid` with the line.
pub(in crate::source) fn parse(text: &str, directory: &Path) -> Result<Vec<Host>> {
    let parser = Parser { text, directory };
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        parser.error(&span, error.message())
    })?;
    parser.file(document.get_ref())
}

/// What parsing needs to know everywhere.
struct Parser<'a> {
    text: &'a str,
    directory: &'a Path,
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;
type Value<'i> = Spanned<DeValue<'i>>;

// === impl Parser ===

impl Parser<'_> {
    fn file(&self, table: &DeTable<'_>) -> Result<Vec<Host>> {
        let mut named: Vec<(&Key<'_>, &Value<'_>)> = Vec::new();
        let mut server = None;
        let mut own = Vec::new();
        for (key, value) in table {
            match &**key.get_ref() {
                "server" => server = Some((key, value)),
                "host" => named.extend(self.table(value, "host")?),
                _ => own.push((key, value)),
            }
        }
        // The map is sorted by name; hosts are asked in the order of the file.
        named.sort_by_key(|(key, _)| key.span().start);
        if named.len() > MAX_HOSTS {
            return Err(self.error(
                &named[MAX_HOSTS].0.span(),
                &format!("more than {MAX_HOSTS} hosts"),
            ));
        }
        let mut hosts = Vec::new();
        for (key, value) in named {
            let keys = self.table(value, "a host")?.iter();
            let mut host = self.host(keys.collect())?;
            host.server = Some(self.server(key.get_ref(), &key.span(), host.override_path)?);
            hosts.push(host);
        }
        let mut last = self.host(own)?;
        if let Some((_, value)) = server {
            let url = self.string(value, "server")?;
            if !url.is_empty() {
                last.server = Some(self.server(url, &value.span(), last.override_path)?);
            }
        }
        hosts.push(last);
        Ok(hosts)
    }

    fn host(&self, keys: Vec<(&Key<'_>, &Value<'_>)>) -> Result<Host> {
        let mut host = Host::default();
        for (key, value) in keys {
            match &**key.get_ref() {
                "capabilities" => host.capabilities = self.capabilities(value)?,
                "ca" => {
                    for file in self.one_or_more(value) {
                        host.ca.push(self.path(file, "ca")?);
                    }
                }
                "client" => host.client = self.client(value)?,
                "skip_verify" => host.skip_verify = self.boolean(value, "skip_verify")?,
                "header" => host.headers = self.headers(value)?,
                "override_path" => host.override_path = self.boolean(value, "override_path")?,
                "dial_timeout" => host.dial_timeout = Some(self.duration(value)?),
                unknown => {
                    let said = format!("unknown key {unknown:?}");
                    return Err(self.error(&key.span(), &said));
                }
            }
        }
        Ok(host)
    }

    fn server(&self, text: &str, span: &Range<usize>, override_path: bool) -> Result<Server> {
        let bad = |why: &str| self.error(span, &format!("host {text:?}: {why}"));
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&whole).map_err(|e| bad(&e.to_string()))?;
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return Err(bad("neither https nor http")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("logins do not belong here"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has more than a path"));
        }
        let host = url.host_str().ok_or_else(|| bad("has no host"))?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = url.path().trim_end_matches('/');
        let path = if override_path || path.ends_with("/v2") {
            path.to_owned()
        } else {
            format!("{path}/v2")
        };
        Ok(Server {
            scheme,
            authority,
            path,
        })
    }

    fn capabilities(&self, value: &Value<'_>) -> Result<Capabilities> {
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.error(&value.span(), "capabilities: want a list of strings"))?;
        let mut found = Capabilities::NONE;
        for item in list.iter() {
            match self.string(item, "capabilities")? {
                "pull" => found.pull = true,
                "resolve" => found.resolve = true,
                "push" => found.push = true,
                "referrers" => found.referrers = true,
                unknown => {
                    let said = format!("unknown capability {unknown:?}");
                    return Err(self.error(&item.span(), &said));
                }
            }
        }
        // As for containerd, an empty list is as if it was not there.
        Ok(if found == Capabilities::NONE {
            Capabilities::ALL
        } else {
            found
        })
    }

    /// `"both.pem"`, `["both.pem"]`, `[["cert.pem", "key.pem"]]`.
    fn client(&self, value: &Value<'_>) -> Result<Option<ClientCertificate>> {
        let items = self.one_or_more(value);
        if items.len() > 1 {
            return Err(self.error(&value.span(), "client: at most one certificate is used"));
        }
        let Some(item) = items.first() else {
            return Ok(None);
        };
        let Some(pair) = item.get_ref().as_array() else {
            let certificate = self.path(item, "client")?;
            return Ok(Some(ClientCertificate {
                certificate,
                key: None,
            }));
        };
        let pair: Vec<&Value<'_>> = pair.iter().collect();
        let (certificate, key) = match pair[..] {
            [certificate] => (certificate, None),
            [certificate, key] if self.string(key, "client")?.is_empty() => (certificate, None),
            [certificate, key] => (certificate, Some(self.path(key, "client")?)),
            _ => {
                return Err(self.error(&item.span(), "client: want [certificate, key]"));
            }
        };
        Ok(Some(ClientCertificate {
            certificate: self.path(certificate, "client")?,
            key,
        }))
    }

    fn headers(&self, value: &Value<'_>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (key, value) in self.table(value, "header")? {
            let name = HeaderName::from_bytes(key.get_ref().as_bytes())
                .map_err(|_| self.error(&key.span(), "not a header's name"))?;
            for item in self.one_or_more(value) {
                let text = self.string(item, key.get_ref())?;
                // The value is not printed: it may be a secret.
                let mut value = HeaderValue::from_str(text)
                    .map_err(|_| self.error(&item.span(), "not a header's value"))?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        Ok(headers)
    }

    fn duration(&self, value: &Value<'_>) -> Result<Duration> {
        let text = self.string(value, "dial_timeout")?;
        duration::parse(text)
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| self.error(&value.span(), "dial_timeout: want for instance \"5s\""))
    }

    fn path(&self, value: &Value<'_>, key: &str) -> Result<PathBuf> {
        let path = self.string(value, key)?;
        if path.is_empty() {
            return Err(self.error(&value.span(), &format!("{key}: empty path")));
        }
        Ok(self.directory.join(path))
    }

    fn table<'v, 'i>(&self, value: &'v Value<'i>, key: &str) -> Result<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        table.ok_or_else(|| self.error(&value.span(), &format!("{key}: want a table")))
    }

    fn string<'v>(&self, value: &'v Value<'_>, key: &str) -> Result<&'v str> {
        let string = value.get_ref().as_str();
        string.ok_or_else(|| self.error(&value.span(), &format!("{key}: want a string")))
    }

    fn boolean(&self, value: &Value<'_>, key: &str) -> Result<bool> {
        let boolean = value.get_ref().as_bool();
        boolean.ok_or_else(|| self.error(&value.span(), &format!("{key}: want true or false")))
    }

    /// The items of a list, or the value itself.
    fn one_or_more<'v, 'i>(&self, value: &'v Value<'i>) -> Vec<&'v Value<'i>> {
        match value.get_ref().as_array() {
            Some(list) => list.iter().collect(),
            None => vec![value],
        }
    }

    fn error(&self, span: &Range<usize>, what: &str) -> Error {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::invalid(format!("line {line}: {what}"))
    }
}
