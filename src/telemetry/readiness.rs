//! Whether containers can be started: each thing that this takes, looked at.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join3;
use tokio::{net::UnixStream, sync::Mutex, task::JoinHandle};

use super::Sources;
use crate::error::{Error, Result};

/// One thing that it takes, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `database`, `socket`, `policy`, `keys` or `store`.
    pub name: &'static str,
    /// What is wrong.
    pub error: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// In a fixed order.
    pub checks: Vec<Check>,
}

/// Looks that share their answers: who asks while another one looks waits for the look after that, so
/// that any number of questions keeps one look busy, and each answer is newer than its question.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Option<(Instant, Readiness)>>);

/// Looks at files, one of each kind at a time.
#[derive(Debug, Default)]
pub(super) struct Files {
    policy: Mutex<Looking>,
    keys: Mutex<Looking>,
    store: Mutex<Looking>,
}

/// A look that has not ended.
type Looking = Option<JoinHandle<Result<()>>>;

/// Longest wait for a file: what takes longer hangs, on a network's file system or a pipe.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at everything.
pub(super) async fn look(sources: &Sources, files: &Files) -> Readiness {
    let mut checks = vec![
        Check::of("database", database(sources).await),
        Check::of("socket", socket(sources.socket.as_deref()).await),
    ];
    if let Some(images) = &sources.images {
        let of = || Arc::clone(images);
        let (policy, keys, store) = (of(), of(), of());
        let policy = within(PATIENCE, &files.policy, move || policy.check_policy());
        let keys = within(PATIENCE, &files.keys, move || keys.check_keys());
        let store = within(PATIENCE, &files.store, move || store.store().probe());
        let (policy, keys, store) = join3(policy, keys, store).await;
        checks.push(Check::of("policy", policy));
        checks.push(Check::of("keys", keys));
        checks.push(Check::of("store", store));
    }
    Readiness { checks }
}

/// Looks, or waits for an earlier look that hangs: threads must not pile up behind it.
async fn within(
    patience: Duration,
    looking: &Mutex<Looking>,
    look: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut looking = looking.lock().await;
    let under_way = looking.get_or_insert_with(|| tokio::task::spawn_blocking(look));
    let Ok(looked) = tokio::time::timeout(patience, under_way).await else {
        return Err(Error::unavailable(format!("no answer in {patience:?}")));
    };
    *looking = None;
    looked.map_err(|e| Error::internal("looking at files").with_source(e))?
}

async fn database(sources: &Sources) -> Result<()> {
    let checked = sources.snapshotter.check().await;
    checked.map_err(|e| Error::internal("snapshot database").with_source(e))
}

/// Whether somebody listens where containerd will connect to. That it is this process is known: a
/// second one is refused the name.
async fn socket(path: Option<&Path>) -> Result<()> {
    // A socket without a name was passed by who connects to it.
    let Some(path) = path else { return Ok(()) };
    let connected = UnixStream::connect(path).await;
    connected
        .map(drop)
        .map_err(|e| Error::io(format!("socket {}", path.display()), e))
}

// === impl Check ===

impl Check {
    fn of(name: &'static str, result: Result<()>) -> Self {
        Self {
            name,
            error: result.err().map(|error| error.to_string()),
        }
    }
}

// === impl Readiness ===

impl Readiness {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.error.is_none())
    }
}

impl fmt::Display for Readiness {
    /// A line for each check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            match &check.error {
                None => writeln!(f, "{}: ok", check.name)?,
                Some(error) => {
                    let error = error.replace('\n', " ");
                    writeln!(f, "{}: not ready: {error}", check.name)?;
                }
            }
        }
        Ok(())
    }
}

// === impl Turns ===

impl Turns {
    /// The answer of a look that began after this was called.
    pub(super) async fn next<F: Future<Output = Readiness>>(
        &self,
        look: impl FnOnce() -> F,
    ) -> Readiness {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((begun, readiness)) = &*last
            && *begun > asked
        {
            return readiness.clone();
        }
        let begun = Instant::now();
        let readiness = look().await;
        let before = last.as_ref().map(|(_, readiness)| readiness);
        tell(before, &readiness);
        *last = Some((begun, readiness.clone()));
        readiness
    }
}

/// Logs what became wrong, and what became right.
fn tell(before: Option<&Readiness>, now: &Readiness) {
    for check in &now.checks {
        let was = before.and_then(|it| it.checks.iter().find(|old| old.name == check.name));
        let was_wrong = was.is_some_and(|it| it.error.is_some());
        match &check.error {
            Some(error) if !was_wrong => {
                tracing::warn!(event = "not_ready", check = check.name, error, "not ready");
            }
            None if was_wrong => {
                tracing::info!(event = "ready_again", check = check.name, "ready again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn questions_share_looks_and_every_answer_is_newer_than_its_question() {
        let turns = Turns::default();
        let (looks, going, go) = (AtomicUsize::new(0), Notify::new(), Notify::new());
        let look = async || {
            let number = looks.fetch_add(1, Ordering::Relaxed);
            if number == 0 {
                going.notify_one();
                go.notified().await;
            }
            let error = Some(number.to_string());
            Readiness {
                checks: vec![Check {
                    name: "store",
                    error,
                }],
            }
        };
        let first = turns.next(&look);
        let others = async {
            going.notified().await;
            let others = join_all((0..20).map(|_| turns.next(&look)));
            let release = async { go.notify_one() };
            futures::future::join(others, release).await.0
        };
        let (first, others) = futures::future::join(first, others).await;
        assert_eq!(first.checks[0].error.as_deref(), Some("0"));
        assert!(
            others
                .iter()
                .all(|it| it.checks[0].error.as_deref() == Some("1"))
        );
        assert_eq!(looks.load(Ordering::Relaxed), 2);
        assert_eq!(
            turns.next(&look).await.checks[0].error.as_deref(),
            Some("2")
        );
    }

    #[tokio::test]
    async fn what_hangs_is_told_and_not_begun_again() {
        let (looking, begun) = (Mutex::default(), Arc::new(AtomicUsize::new(0)));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let look = |patience| {
            let (begun, held) = (Arc::clone(&begun), Arc::clone(&held));
            within(patience, &looking, move || {
                begun.fetch_add(1, Ordering::Relaxed);
                let released = held.lock().unwrap().recv();
                released.map_err(|_| Error::internal("nobody releases"))
            })
        };
        for _ in 0..3 {
            let looked = look(Duration::from_millis(5)).await;
            assert_eq!(looked.unwrap_err().kind(), crate::Kind::Unavailable);
        }
        release.send(()).unwrap();
        look(Duration::from_secs(60)).await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_body_names_each_check_on_a_line_of_its_own() {
        let checks = vec![
            Check::of("database", Ok(())),
            Check::of("policy", Err(Error::invalid("line 1\nline 2"))),
        ];
        let readiness = Readiness { checks };
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.to_string(),
            "database: ok\npolicy: not ready: line 1 line 2\n"
        );
    }
}
