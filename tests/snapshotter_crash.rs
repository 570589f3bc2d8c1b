//! Random prepare, commit and remove with `kill -9` in the middle, 200 times: after each restart
//! everything that was answered is there, and at the end database and disk agree. The seed is printed;
//! NACRE_CRASH_SEED repeats a run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use nacre_snapshotter_proto::containerd::services::snapshots::v1::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, snapshots_client::SnapshotsClient,
};
use tonic::{Status, transport::Channel};

const ROUNDS: usize = 200;
/// Turns of the scheduler within which the daemon dies: about twice as long as an answer takes.
const MOMENTS: usize = 60_000;

/// What must be there: parent and kind by name.
type Model = BTreeMap<String, (String, Kind)>;

#[derive(Clone, Debug)]
enum Operation {
    Prepare { key: String, parent: String },
    Commit { key: String, name: String },
    Remove { key: String },
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_left() {
    let seed = std::env::var("NACRE_CRASH_SEED")
        .map(|it| it.parse().unwrap())
        .unwrap_or_else(|_| getrandom::u64().unwrap() | 1);
    println!("NACRE_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut model = Model::new();
    let mut serial = 0;
    let (mut answered, mut undone) = (0, 0);
    let (mut daemon, mut client) = serve(root).await;
    for round in 0..ROUNDS {
        // One after the other, each answered before the next.
        for _ in 0..3 {
            let operation = random.operation(&model, &mut serial);
            run(&mut client, &operation).await.unwrap();
            operation.apply(&mut model);
        }
        // One more, and the daemon dies at a random moment of it.
        let last = random.operation(&model, &mut serial);
        let mut other = client.clone();
        let asked = last.clone();
        let pending = tokio::spawn(async move { run(&mut other, &asked).await });
        for _ in 0..random.below(MOMENTS) {
            tokio::task::yield_now().await;
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let told = pending.await.unwrap().is_ok();
        answered += usize::from(told);
        (daemon, client) = serve(root).await;

        let found = list(&mut client).await;
        let before = model.clone();
        last.apply(&mut model);
        if found == before && !told {
            model = before;
            undone += 1;
        }
        assert_eq!(
            found, model,
            "seed {seed}, round {round}: {last:?} told {told}"
        );
        let directories = entries(root, "snapshots");
        assert_eq!(directories, model.len(), "seed {seed}, round {round}");
    }
    println!(
        "{ROUNDS} crashes: {answered} after the answer, {undone} before the effect, {} between",
        ROUNDS - answered - undone
    );

    while !model.is_empty() {
        let key = leaves(&model).remove(0);
        let operation = Operation::Remove { key };
        run(&mut client, &operation).await.unwrap();
        operation.apply(&mut model);
    }
    let request = CleanupRequest::default();
    client.cleanup(request).await.unwrap();
    assert_eq!(list(&mut client).await, model);
    assert_eq!(entries(root, "snapshots") + entries(root, "removed"), 0);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

async fn serve(root: &Path) -> (Child, SnapshotsClient<Channel>) {
    let socket = root.join("s");
    let mut child = Command::new(env!("CARGO_BIN_EXE_nacre"))
        .arg("serve")
        .arg("--root")
        .arg(root)
        .arg("--socket")
        .arg(&socket)
        .env("RUST_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    assert_ne!(output.read_line(&mut line).unwrap(), 0, "nacre serve ended");
    let uri = format!("unix://{}", socket.display());
    (child, SnapshotsClient::connect(uri).await.unwrap())
}

async fn run(client: &mut SnapshotsClient<Channel>, operation: &Operation) -> Result<(), Status> {
    match operation.clone() {
        Operation::Prepare { key, parent } => {
            let request = PrepareSnapshotRequest {
                key,
                parent,
                ..PrepareSnapshotRequest::default()
            };
            client.prepare(request).await.map(drop)
        }
        Operation::Commit { key, name } => {
            let request = CommitSnapshotRequest {
                key,
                name,
                ..CommitSnapshotRequest::default()
            };
            client.commit(request).await.map(drop)
        }
        Operation::Remove { key } => {
            let snapshotter = String::new();
            let request = RemoveSnapshotRequest { snapshotter, key };
            client.remove(request).await.map(drop)
        }
    }
}

async fn list(client: &mut SnapshotsClient<Channel>) -> Model {
    let request = ListSnapshotsRequest::default();
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut found = Model::new();
    while let Some(block) = stream.message().await.unwrap() {
        let entry = |info: Info| {
            let kind = info.kind();
            (info.name, (info.parent, kind))
        };
        found.extend(block.info.into_iter().map(entry));
    }
    found
}

fn entries(root: &Path, directory: &str) -> usize {
    let path = root.join("snapshotter").join(directory);
    fs::read_dir(path).unwrap().count()
}

/// Snapshots that nothing stands on.
fn leaves(model: &Model) -> Vec<String> {
    let stands_on = |name: &String| model.values().any(|(parent, _)| parent == name);
    model
        .keys()
        .filter(|name| !stands_on(name))
        .cloned()
        .collect()
}

impl Operation {
    fn apply(&self, model: &mut Model) {
        match self {
            Operation::Prepare { key, parent } => {
                model.insert(key.clone(), (parent.clone(), Kind::Active));
            }
            Operation::Commit { key, name } => {
                let (parent, _) = model.remove(key).unwrap();
                model.insert(name.clone(), (parent, Kind::Committed));
            }
            Operation::Remove { key } => {
                model.remove(key).unwrap();
            }
        }
    }
}

/// xorshift: the same operations for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    fn pick(&mut self, from: &[String]) -> String {
        from[self.below(from.len())].clone()
    }

    /// One that must succeed.
    fn operation(&mut self, model: &Model, serial: &mut u32) -> Operation {
        *serial += 1;
        let of = |wanted: Kind| -> Vec<String> {
            let mut found = Vec::new();
            for (name, (_, kind)) in model {
                if *kind == wanted {
                    found.push(name.clone());
                }
            }
            found
        };
        let (active, mut committed) = (of(Kind::Active), of(Kind::Committed));
        match self.below(10) {
            0..=2 if !active.is_empty() => Operation::Commit {
                key: self.pick(&active),
                name: format!("committed-{serial}"),
            },
            3..=5 if !model.is_empty() => Operation::Remove {
                key: self.pick(&leaves(model)),
            },
            _ => {
                committed.push(String::new());
                Operation::Prepare {
                    key: format!("active-{serial}"),
                    parent: self.pick(&committed),
                }
            }
        }
    }
}
