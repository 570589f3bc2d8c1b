//! The kubelet's credential provider plugins: programs that know how to log in to a cloud's
//! registries.
//!
//! Which program is asked for which images stands in the kubelet's `CredentialProviderConfig`
//! (`config`); one is asked as the kubelet asks it (`exec`). Answers are kept in memory only, as
//! long as the program allows.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{credentials::Login, secret::Secret};
use crate::error::{Error, Result};

mod config;
mod exec;
mod pattern;
#[cfg(test)]
mod tests;

pub(super) use self::config::ProviderConfig;

/// Programs that give logins, and what they have given.
#[derive(Clone, Debug)]
pub(super) struct Providers {
    providers: Arc<Vec<Provider>>,
    deadline: Duration,
}

/// One program.
struct Provider {
    config: ProviderConfig,
    program: PathBuf,
    /// Held while the program runs: who wants the same login waits for it.
    answers: tokio::sync::Mutex<HashMap<CacheKey, Answer>>,
}

/// For what an answer serves, as the program says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CacheKey {
    Image(String),
    Registry(String),
    Global,
}

/// What a program said.
struct Answer {
    /// By pattern of images, the most particular first.
    logins: Vec<(String, String, Secret)>,
    until: Instant,
}

/// Answers of one program that are kept: one for each repository if it wants it so.
const MAX_ANSWERS: usize = 256;

// === impl Providers ===

impl Providers {
    /// The programs of a `CredentialProviderConfig`, in `directory`.
    ///
    /// # Errors
    /// `Invalid` if the file is malformed or names a program that is not there, `Io` if it cannot be
    /// read.
    pub(super) fn load(file: &Path, directory: &Path, deadline: Duration) -> Result<Self> {
        let name = format!("credential provider configuration {}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| Error::io(name.clone(), e))?;
        let configs = config::parse(&text).map_err(|error| error.context(name.clone()))?;
        let mut providers = Vec::new();
        for config in configs {
            let program = directory.join(OsStr::new(&config.name));
            if !program.is_file() {
                let said = format!("{name}: there is no program {}", program.display());
                return Err(Error::invalid(said).with_hint("--credential-provider-bin-dir"));
            }
            providers.push(Provider {
                config,
                program,
                answers: tokio::sync::Mutex::default(),
            });
        }
        Ok(Self {
            providers: Arc::new(providers),
            deadline,
        })
    }

    /// The first login that a program gives for `image` (`host/path`).
    ///
    /// # Errors
    /// `Denied` or `Unavailable` if a program fails or hangs.
    pub(super) async fn login(
        &self,
        now: impl Fn() -> Instant,
        image: &str,
    ) -> Result<Option<Login>> {
        for provider in &*self.providers {
            let patterns = &provider.config.match_images;
            if !patterns.iter().any(|p| pattern::matches(p, image)) {
                continue;
            }
            let login = provider.login(&now, image, self.deadline).await?;
            if login.is_some() {
                return Ok(login);
            }
        }
        Ok(None)
    }
}

// === impl Provider ===

impl Provider {
    async fn login(
        &self,
        now: impl Fn() -> Instant,
        image: &str,
        deadline: Duration,
    ) -> Result<Option<Login>> {
        let host = image.split('/').next().unwrap_or(image);
        let keys = [
            CacheKey::Image(image.to_owned()),
            CacheKey::Registry(host.to_owned()),
            CacheKey::Global,
        ];
        let mut answers = self.answers.lock().await;
        let asked = now();
        answers.retain(|_, answer| asked < answer.until);
        if let Some(answer) = keys.iter().find_map(|key| answers.get(key)) {
            return Ok(answer.login(image));
        }
        let response = exec::ask(&self.program, &self.config, image, deadline).await?;
        let life = response
            .cache_duration
            .unwrap_or(self.config.default_cache_duration);
        let [of_image, of_registry, global] = keys;
        let key = match response.cache_key_type {
            exec::CacheKeyType::Image => of_image,
            exec::CacheKeyType::Registry => of_registry,
            exec::CacheKeyType::Global => global,
        };
        let mut logins = response.logins;
        // As the kubelet does: the reverse order of the alphabet puts longer paths first.
        logins.sort_by(|(one, ..), (other, ..)| other.cmp(one));
        let now = now();
        let answer = Answer {
            logins,
            until: now.checked_add(life).unwrap_or(now),
        };
        let login = answer.login(image);
        if !life.is_zero() {
            if answers.len() >= MAX_ANSWERS {
                answers.clear();
            }
            answers.insert(key, answer);
        }
        Ok(login)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({})", self.program.display())
    }
}

// === impl Answer ===

impl Answer {
    fn login(&self, image: &str) -> Option<Login> {
        let found = self
            .logins
            .iter()
            .find(|(pattern, ..)| pattern::matches(pattern, image));
        found.map(|(_, username, password)| Login::Basic {
            username: username.clone(),
            password: password.clone(),
        })
    }
}
