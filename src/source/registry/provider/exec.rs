//! One question to a credential provider plugin: `CredentialProviderRequest` on stdin,
//! `CredentialProviderResponse` on stdout.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Deserialize;
use tokio::process::Command;

use super::{
    super::{duration, helper, secret::Secret},
    config::ProviderConfig,
};
use crate::error::{Error, Kind, Result};

/// What a plugin answered.
pub(super) struct Response {
    pub(super) cache_key_type: CacheKeyType,
    /// `None` if it leaves it to the configuration.
    pub(super) cache_duration: Option<Duration>,
    /// Pattern of images, user name, password.
    pub(super) logins: Vec<(String, String, Secret)>,
}

/// For what an answer serves.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum CacheKeyType {
    Image,
    Registry,
    Global,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    api_version: String,
    cache_key_type: CacheKeyType,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Pair>>,
}

#[derive(Deserialize)]
struct Pair {
    #[serde(default)]
    username: String,
    password: Secret,
}

/// Asks the program for a login for `image`.
///
/// # Errors
/// `Denied` if it fails or cannot be understood, `Unavailable` if it takes longer than `deadline`.
pub(super) async fn ask(
    program: &Path,
    config: &ProviderConfig,
    image: &str,
    deadline: Duration,
) -> Result<Response> {
    let bad = |kind, what: String| {
        let name = &config.name;
        Error::new(
            kind,
            format!("credential provider {name:?} for {image}: {what}"),
        )
    };
    let request = serde_json::json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": config.api_version,
        "image": image,
    });
    let mut command = Command::new(program);
    command
        .args(&config.args)
        .envs(config.env.iter().map(|(name, value)| (name, value)));
    let run = helper::run(&mut command, request.to_string().into_bytes());
    let (success, out, err) = tokio::time::timeout(deadline, run)
        .await
        .map_err(|_| bad(Kind::Unavailable, format!("no answer in {deadline:?}")))?
        .map_err(|e| bad(Kind::Denied, e.to_string()))?;
    if !success {
        // What it prints on stderr is meant for logs; stdout is for secrets.
        let said = String::from_utf8_lossy(&err);
        let first = said.lines().next().unwrap_or("it failed and said nothing");
        let first: String = first
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        return Err(bad(Kind::Denied, first));
    }
    let unclear = |what: &str| {
        bad(
            Kind::Denied,
            format!("its answer is not understood: {what}"),
        )
    };
    let answer: Document =
        serde_json::from_slice(&out).map_err(|_| unclear("want a CredentialProviderResponse"))?;
    if answer.kind != "CredentialProviderResponse" || answer.api_version != config.api_version {
        return Err(unclear("another kind or apiVersion than was asked for"));
    }
    let cache_duration = match &answer.cache_duration {
        None => None,
        Some(text) => Some(duration::parse(text).ok_or_else(|| unclear("cacheDuration"))?),
    };
    let logins = answer.auth.unwrap_or_default().into_iter();
    Ok(Response {
        cache_key_type: answer.cache_key_type,
        cache_duration,
        logins: logins
            .map(|(pattern, pair)| (pattern, pair.username, pair.password))
            .collect(),
    })
}
