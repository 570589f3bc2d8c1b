//! ocicrypt's key provider protocol, version 1: JSON each way, to a command, over gRPC or ttrpc.
//!
//! Go writes bytes as base64 and reads arrays too; the Rust side of Confidential Containers writes
//! arrays and reads nothing else. So arrays are written and both are read.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ProviderReport;
use crate::{
    error::{Error, Kind, Result},
    ocicrypt::json::{SecretBytes, UniqueMap},
    resource::{Resources, told},
};

pub(super) mod cmd;
mod grpc;
mod ttrpc;

/// The key providers that a configuration file names.
#[derive(Default)]
pub(super) struct Providers {
    path: Option<PathBuf>,
    exists: bool,
    all: BTreeMap<String, Provider>,
}

/// How one key provider is reached.
#[derive(Debug)]
pub(super) enum Provider {
    /// A command: request on its standard input, answer on its standard output.
    Command { path: PathBuf, args: Vec<String> },
    /// A gRPC server at `host:port`, without TLS.
    Grpc(String),
    /// A ttrpc server at `unix:///PATH`, as Confidential Containers' data hub (CDH) is.
    Ttrpc(PathBuf),
    /// A way that other tools have; a layer that needs it is refused by its name.
    Unsupported(&'static str),
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "key-providers", default)]
    providers: UniqueMap<Attributes>,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    cmd: Option<Command>,
    #[serde(default)]
    grpc: Option<String>,
    #[serde(default, rename = "grpc-tls")]
    grpc_tls: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    ttrpc: Option<String>,
    #[serde(default)]
    native: Option<String>,
}

#[derive(Deserialize)]
struct Command {
    path: PathBuf,
    #[serde(default)]
    args: Option<Vec<String>>,
}

/// Both fields are always there, the one that is not meant empty: CDH wants them.
#[derive(Serialize)]
struct Request<'a> {
    op: &'static str,
    keywrapparams: WrapParams<'a>,
    keyunwrapparams: UnwrapParams<'a>,
}

#[derive(Default, Serialize)]
struct WrapParams<'a> {
    ec: Option<EncryptConfig<'a>>,
    optsdata: Option<&'a [u8]>,
}

#[derive(Default, Serialize)]
struct UnwrapParams<'a> {
    dc: Option<Config<'a>>,
    annotation: Option<&'a [u8]>,
}

#[derive(Serialize)]
struct EncryptConfig<'a> {
    #[serde(rename = "Parameters")]
    parameters: BTreeMap<&'a str, Vec<String>>,
    #[serde(rename = "DecryptConfig")]
    decrypt: Config<'a>,
}

#[derive(Default, Serialize)]
struct Config<'a> {
    #[serde(rename = "Parameters")]
    parameters: BTreeMap<&'a str, Vec<String>>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    keywrapresults: Option<WrapResults>,
    #[serde(default)]
    keyunwrapresults: Option<UnwrapResults>,
}

#[derive(Deserialize)]
struct WrapResults {
    #[serde(default)]
    annotation: Option<SecretBytes>,
}

#[derive(Deserialize)]
struct UnwrapResults {
    #[serde(default)]
    optsdata: Option<SecretBytes>,
}

/// What a provider is asked to do.
#[derive(Clone, Copy)]
enum Operation {
    Wrap,
    Unwrap,
}

/// Largest configuration file.
const MAX_FILE: usize = 1 << 20;
/// Largest answer. Private options take 200 bytes, 800 as an array.
const MAX_REPLY: usize = 1 << 20;
/// ocicrypt's parameter where the user gave none.
const ENABLED: &str = "Enabled";

// === impl Providers ===

impl Providers {
    /// Reads the configuration; a file that does not exist names no providers.
    pub(super) fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let name = |e: Error| e.context("key provider configuration");
        let file = match Resources::default().read(path, MAX_FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::NotFound => {
                return Ok(Self {
                    path: Some(path.to_owned()),
                    ..Self::default()
                });
            }
            Err(error) => return Err(name(error)),
        };
        let all = parse(&file).map_err(|e| name(e.context(path.display().to_string())))?;
        Ok(Self {
            path: Some(path.to_owned()),
            exists: true,
            all,
        })
    }

    /// Their names and ways.
    pub(super) fn describe(&self) -> Vec<ProviderReport> {
        let all = self.all.iter();
        all.map(|(name, provider)| ProviderReport {
            name: name.clone(),
            way: match provider {
                Provider::Command { path, .. } => format!("cmd {}", path.display()),
                Provider::Grpc(target) => format!("grpc {target}"),
                Provider::Ttrpc(socket) => format!("ttrpc {}", socket.display()),
                Provider::Unsupported(way) => format!("{way} (not spoken)"),
            },
        })
        .collect()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Provider> {
        self.all.get(name)
    }

    /// What to do so that provider `name` is there.
    pub(super) fn hint(&self, name: &str) -> String {
        match &self.path {
            None => format!(
                "configure key provider {name:?} in the file that OCICRYPT_KEYPROVIDER_CONFIG names"
            ),
            Some(path) if !self.exists => format!(
                "configure key provider {name:?}: {} does not exist",
                path.display()
            ),
            Some(path) => format!("add key provider {name:?} to {}", path.display()),
        }
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.keys()).finish()
    }
}

// === impl Provider ===

impl Provider {
    /// Asks the provider called `name` to open a packet.
    ///
    /// # Errors
    /// `Unavailable` if it is away, dies, or does not answer within `deadline`; `Denied` if it
    /// refuses; `Invalid` if its answer is none; `Unsupported`.
    pub(super) async fn unwrap(
        &self,
        name: &str,
        params: &[String],
        packet: &[u8],
        deadline: Duration,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let request = Zeroizing::new(unwrap_request(name, params, packet));
        self.ask(Operation::Unwrap, request, deadline).await
    }

    /// Asks the provider called `name` to make a packet of private options.
    ///
    /// # Errors
    /// As [`unwrap`](Self::unwrap).
    pub(super) async fn wrap(
        &self,
        name: &str,
        params: &[String],
        private: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>> {
        let request = wrap_request(name, params, private);
        let packet = self.ask(Operation::Wrap, request, deadline).await?;
        Ok(packet.to_vec())
    }

    async fn ask(
        &self,
        operation: Operation,
        request: Zeroizing<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let asked = async {
            match self {
                Self::Command { path, args } => cmd::ask(path, args, &request).await,
                Self::Grpc(target) => grpc::ask(target, operation, &request).await,
                Self::Ttrpc(socket) => ttrpc::ask(socket, operation, &request, deadline).await,
                Self::Unsupported(way) => Err(Error::unsupported(format!(
                    "reached through {way}, which nacre does not speak; cmd, grpc and ttrpc are known"
                ))),
            }
        };
        let reply = tokio::time::timeout(deadline, asked).await.map_err(|_| {
            Error::unavailable(format!("no answer within {} s", deadline.as_secs_f32()))
        })??;
        read_reply(operation, &reply)
    }
}

fn parse(json: &[u8]) -> Result<BTreeMap<String, Provider>> {
    let file: File = serde_json::from_slice(json).map_err(|e| Error::invalid(e.to_string()))?;
    file.providers
        .0
        .into_iter()
        .map(|(name, attributes)| {
            let provider = match attributes {
                Attributes { cmd: Some(cmd), .. } => Provider::Command {
                    path: cmd.path,
                    args: cmd.args.unwrap_or_default(),
                },
                // Without TLS the layer key would cross the network in clear text.
                Attributes {
                    grpc: Some(target),
                    grpc_tls,
                    ..
                } if !target.is_empty() => match grpc_tls {
                    Some(_) => Provider::Unsupported("grpc with grpc-tls"),
                    None => Provider::Grpc(target),
                },
                Attributes {
                    ttrpc: Some(target),
                    ..
                } => match target.strip_prefix("unix://") {
                    Some(path) if path.starts_with('/') => Provider::Ttrpc(path.into()),
                    _ => {
                        return Err(Error::invalid(format!(
                            "key provider {name:?}: ttrpc {target:?}: want unix:///PATH"
                        )));
                    }
                },
                Attributes {
                    native: Some(_), ..
                } => Provider::Unsupported("native"),
                _ => {
                    return Err(Error::invalid(format!(
                        "key provider {name:?} has none of cmd, grpc, ttrpc, native"
                    )));
                }
            };
            Ok((name, provider))
        })
        .collect()
}

fn parameters(params: &[String]) -> Vec<String> {
    if params.is_empty() {
        return vec![STANDARD.encode(ENABLED)];
    }
    params.iter().map(|param| STANDARD.encode(param)).collect()
}

fn unwrap_request(name: &str, params: &[String], packet: &[u8]) -> Vec<u8> {
    let request = Request {
        op: "keyunwrap",
        keywrapparams: WrapParams::default(),
        keyunwrapparams: UnwrapParams {
            dc: Some(Config {
                parameters: BTreeMap::from([(name, parameters(params))]),
            }),
            annotation: Some(packet),
        },
    };
    serde_json::to_vec(&request).expect("text keys and numbers encode")
}

fn wrap_request(name: &str, params: &[String], private: &[u8]) -> Zeroizing<Vec<u8>> {
    let request = Request {
        op: "keywrap",
        keywrapparams: WrapParams {
            ec: Some(EncryptConfig {
                parameters: BTreeMap::from([(name, parameters(params))]),
                decrypt: Config::default(),
            }),
            optsdata: Some(private),
        },
        keyunwrapparams: UnwrapParams::default(),
    };
    let params: usize = params.iter().map(|param| param.len() * 2).sum();
    // Room for everything, so that no growing buffer leaves a copy of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        1024 + name.len() * 6 + params + private.len() * 4,
    ));
    serde_json::to_writer(&mut *bytes, &request).expect("text keys and numbers encode");
    bytes
}

fn read_reply(operation: Operation, reply: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let parsed: Reply = serde_json::from_slice(reply).map_err(|e| {
        // The message of a type error could quote the answer, which is a secret.
        Error::invalid(format!(
            "its answer of {} bytes is not the protocol's JSON (line {} column {})",
            reply.len(),
            e.line(),
            e.column()
        ))
    })?;
    let (held, wanted) = match operation {
        Operation::Wrap => (
            parsed.keywrapresults.and_then(|results| results.annotation),
            "keywrapresults.annotation",
        ),
        Operation::Unwrap => (
            parsed.keyunwrapresults.and_then(|results| results.optsdata),
            "keyunwrapresults.optsdata",
        ),
    };
    held.map(|data| data.0)
        .filter(|data| !data.is_empty())
        .ok_or_else(|| Error::denied(format!("its answer holds no {wanted}")))
}

#[cfg(test)]
mod tests;
