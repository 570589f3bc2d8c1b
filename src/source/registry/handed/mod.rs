//! Logins that were handed over for an image (by the kubelet, through the CRI): in memory only.
//!
//! A login serves the repository of the image it came with, and no other: registries give
//! permissions by repository. It is used as long as the pull lasts; after a pull that succeeded it
//! stays as long as somebody reads from the repository, and a while longer. A pull that failed
//! leaves nothing, so nobody can put a wrong login in the place of a right one.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    auth::Slot,
    credentials::Login,
    retry::{Environment, System},
    secret::Secret,
};
use crate::{
    error::{Error, Result},
    oci::RegistryReference,
};

/// All logins that were handed over; clones are the same.
#[derive(Clone)]
pub struct HandedLogins(Arc<Inner>);

struct Inner {
    environment: Arc<dyn Environment>,
    repositories: Mutex<HashMap<String, Arc<RepositoryLogins>>>,
}

/// One login, with what was obtained by it: that ends when it ends.
pub struct HandedLogin {
    login: Login,
    /// The host it is for; the repository's registry if it does not say.
    server: Option<String>,
    /// Authorizations by host and path.
    slots: Mutex<HashMap<(String, String), Arc<Slot>>>,
    rest: Mutex<Rest>,
    /// A registry has accepted it.
    proven: AtomicBool,
}

/// A login that a token server refused, or instead of which another one was accepted, is left alone
/// for a while: longer each time, as a password may be locked by too many tries.
#[derive(Debug, Default)]
struct Rest {
    refusals: u32,
    until: Option<Instant>,
}

/// The logins of one repository. Who reads from the repository holds this.
pub(super) struct RepositoryLogins {
    environment: Arc<dyn Environment>,
    /// `host/path`
    repository: String,
    host: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of pulls under way.
    pulling: VecDeque<Arc<HandedLogin>>,
    /// Of pulls that succeeded.
    kept: VecDeque<Arc<HandedLogin>>,
    /// Since when nobody reads from the repository, as far as has been noticed.
    unused_since: Option<Instant>,
}

/// A pull under way. Its login is forgotten when this is dropped.
#[must_use = "the login is forgotten when this is dropped"]
#[derive(Debug)]
pub struct Pull {
    repository: Arc<RepositoryLogins>,
    login: Arc<HandedLogin>,
}

/// How long logins of a repository that nobody reads from are kept: after a pull the container
/// starts, and its mount reads.
const KEEP_UNUSED: Duration = Duration::from_secs(600);
/// How often unused logins are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Repositories that nobody reads from and whose logins are kept: more than a node pulls from in
/// [`KEEP_UNUSED`].
const MAX_UNUSED: usize = 256;
/// Logins of one repository: pods may bring different ones for the same image.
const MAX_KEPT: usize = 4;
/// Pulls at once from one repository whose logins are used: more than the kubelet starts.
const MAX_PULLING: usize = 16;
/// Largest secret: a token with many claims has some ten KiB.
const MAX_SECRET: usize = 64 << 10;
/// First and longest time that a refused login is left alone.
const REST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Docker Hub's other names in server addresses.
const DOCKER_HUB: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

// === impl HandedLogins ===

impl HandedLogins {
    /// None yet; by this clock.
    #[must_use]
    pub fn new(environment: Arc<dyn Environment>) -> Self {
        Self(Arc::new(Inner {
            environment,
            repositories: Mutex::default(),
        }))
    }

    /// Uses `login` for the repository of `image` from now on, before all others.
    pub fn pull(&self, image: &RegistryReference, login: HandedLogin) -> Pull {
        self.sweep();
        let repository = self.of(image);
        let login = Arc::new(login);
        let mut state = repository.state();
        state.pulling.push_front(Arc::clone(&login));
        state.pulling.truncate(MAX_PULLING);
        drop(state);
        Pull { repository, login }
    }

    /// Forgets unused logins, again and again.
    pub async fn keep_sweeping(self) {
        loop {
            self.0.environment.sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// Forgets the logins of repositories that nobody has read from for a while.
    pub fn sweep(&self) {
        let now = self.0.environment.now();
        let mut repositories = self.repositories();
        let mut unused = Vec::new();
        repositories.retain(|name, logins| {
            let mut state = logins.state();
            // Nobody can come to hold it meanwhile: they get it from the map, which is locked.
            if Arc::strong_count(logins) > 1 {
                state.unused_since = None;
                return true;
            }
            let since = *state.unused_since.get_or_insert(now);
            let keep = !state.kept.is_empty() && now.duration_since(since) < KEEP_UNUSED;
            if keep {
                unused.push((since, name.clone()));
            }
            keep
        });
        unused.sort_unstable();
        let too_many = unused.len().saturating_sub(MAX_UNUSED);
        for (_, name) in &unused[..too_many] {
            repositories.remove(name);
        }
    }

    /// The logins of the repository of `image`, those to come too.
    pub(super) fn of(&self, image: &RegistryReference) -> Arc<RepositoryLogins> {
        let name = image.repository();
        let mut repositories = self.repositories();
        let logins = repositories.entry(name).or_insert_with_key(|name| {
            Arc::new(RepositoryLogins {
                environment: Arc::clone(&self.0.environment),
                repository: name.clone(),
                host: image.host().to_owned(),
                state: Mutex::default(),
            })
        });
        logins.state().unused_since = None;
        Arc::clone(logins)
    }

    fn repositories(&self) -> MutexGuard<'_, HashMap<String, Arc<RepositoryLogins>>> {
        let repositories = self.0.repositories.lock();
        repositories.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HandedLogins {
    fn default() -> Self {
        Self::new(Arc::new(System))
    }
}

impl fmt::Debug for HandedLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.repositories().len();
        write!(f, "HandedLogins({count} repositories)")
    }
}

// === impl Pull ===

impl Pull {
    /// Keeps the login, unless it was refused here meanwhile: whoever pulled may not have been asked
    /// for one. It takes the place of an older one of the same user, if that has not been accepted
    /// before and this one has not.
    pub fn succeeded(self) {
        if self.login.is_resting(self.repository.environment.now()) {
            return;
        }
        let mut state = self.repository.state();
        let proven = self.login.is_proven();
        let replaced = |old: &HandedLogin| {
            old.is_of_the_same_user(&self.login) && (proven || !old.is_proven())
        };
        state.kept.retain(|old| !replaced(old));
        state.kept.push_front(Arc::clone(&self.login));
        state.kept.truncate(MAX_KEPT);
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let mut state = self.repository.state();
        state.pulling.retain(|it| !Arc::ptr_eq(it, &self.login));
    }
}

// === impl HandedLogin ===

impl HandedLogin {
    /// User name and password.
    ///
    /// # Errors
    /// `Invalid` if the password is longer than any is.
    pub fn basic(username: impl Into<String>, password: Zeroizing<String>) -> Result<Self> {
        let username = username.into();
        let password = secret(password)?;
        Ok(Self::new(Login::Basic { username, password }))
    }

    /// User name and password in docker's form: base64 of `user:password`.
    ///
    /// # Errors
    /// `Invalid` if it is not, or longer than any is.
    pub fn encoded(auth: Zeroizing<String>) -> Result<Self> {
        Login::decode(&secret(auth)?).map(Self::new)
    }

    /// An OAuth 2 refresh token, from which the token server makes access tokens.
    ///
    /// # Errors
    /// `Invalid` if it is longer than any is.
    pub fn identity_token(token: Zeroizing<String>) -> Result<Self> {
        Ok(Self::new(Login::Identity(secret(token)?)))
    }

    /// A bearer token for the registry itself.
    ///
    /// # Errors
    /// `Invalid` if it is longer than any is.
    pub fn registry_token(token: Zeroizing<String>) -> Result<Self> {
        Ok(Self::new(Login::Token(secret(token)?)))
    }

    /// For this host only: `host[:port]` or a URL.
    #[must_use]
    pub fn for_server(mut self, address: &str) -> Self {
        let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
        let host = bare.split('/').next().unwrap_or(bare);
        let host = if DOCKER_HUB.contains(&host) {
            "docker.io"
        } else {
            host
        };
        self.server = (!host.is_empty()).then(|| host.to_owned());
        self
    }

    fn new(login: Login) -> Self {
        Self {
            login,
            server: None,
            slots: Mutex::default(),
            rest: Mutex::default(),
            proven: AtomicBool::new(false),
        }
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// The authorization for a path on a host.
    pub(super) fn slot(&self, host: &str, path: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), path.to_owned());
        Arc::clone(slots.entry(key).or_default())
    }

    fn is_of_the_same_user(&self, other: &Self) -> bool {
        let same = match (&self.login, &other.login) {
            (Login::Basic { username: one, .. }, Login::Basic { username: two, .. }) => one == two,
            (one, two) => mem::discriminant(one) == mem::discriminant(two),
        };
        same && self.server == other.server
    }

    /// Takes note that a registry accepted it.
    pub(super) fn accepted(&self) {
        self.proven.store(true, Ordering::Relaxed);
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Rest::default();
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn is_resting(&self, now: Instant) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.until.is_some_and(|until| now < until)
    }

    fn rest(&self, now: Instant) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if rest.until.is_some_and(|until| now < until) {
            // Somebody else was refused at the same time.
            return;
        }
        let (first, longest) = REST;
        let pause = first.saturating_mul(2_u32.saturating_pow(rest.refusals));
        rest.refusals = rest.refusals.saturating_add(1);
        rest.until = Some(now + pause.min(longest));
    }
}

impl fmt::Debug for HandedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandedLogin").field(&self.login).finish()
    }
}

// === impl RepositoryLogins ===

impl RepositoryLogins {
    /// What may be sent to `host`, the newest first: to the registry itself, or to the host that it
    /// was handed over for. A mirror is not given what is for the registry.
    pub(super) fn usable(&self, host: &str) -> Vec<Arc<HandedLogin>> {
        let now = self.environment.now();
        let state = self.state();
        let all = state.pulling.iter().chain(&state.kept);
        let usable = all.filter(|it| {
            let server = it.server.as_deref().unwrap_or(&self.host);
            server == host && !it.is_resting(now)
        });
        usable.cloned().collect()
    }

    /// Takes note that a login is of no use for now.
    pub(super) fn refused(&self, login: &HandedLogin, why: &str) {
        login.rest(self.environment.now());
        let repository = &self.repository;
        tracing::warn!(
            repository,
            why,
            "login that was handed over is refused; trying others"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RepositoryLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryLogins({})", self.repository)
    }
}

fn secret(text: Zeroizing<String>) -> Result<Secret> {
    if text.len() > MAX_SECRET {
        return Err(Error::invalid(format!(
            "secret of {} bytes, at most {MAX_SECRET} are taken",
            text.len()
        )));
    }
    Ok(Secret::from(text))
}
