//! Prepare to Remove on real directories, with lazily mounted images that are plain directories.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;

use super::*;
use crate::oci::Digest;

/// Layers by digest: what to say of each.
#[derive(Debug, Default)]
struct FakeImages {
    verdicts: Mutex<BTreeMap<Digest, Verdict>>,
    root: PathBuf,
    mounted: Mutex<Vec<String>>,
    alive: Mutex<Option<Vec<String>>>,
    asked: AtomicUsize,
}

impl FakeImages {
    fn set(&self, layer: &[u8], verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().unwrap();
        verdicts.insert(Digest::sha256(layer), verdict);
    }
}

impl LazyImages for FakeImages {
    fn layer<'a>(&'a self, request: &'a LayerRequest) -> BoxFuture<'a, crate::Result<Verdict>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let verdict = self
            .verdicts
            .lock()
            .unwrap()
            .get(&request.layer_digest)
            .cloned();
        Box::pin(async {
            verdict.ok_or_else(|| Error::denied("image app:1: not signed").with_hint("sign it"))
        })
    }

    fn lower<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, crate::Result<PathBuf>> {
        let path = self.root.join(format!("lower-{}", evidence.chain_id));
        fs::create_dir_all(&path).unwrap();
        self.mounted.lock().unwrap().push(evidence.chain_id.clone());
        Box::pin(async { Ok(path) })
    }

    fn retain<'a>(&'a self, alive: &'a [Evidence]) -> BoxFuture<'a, crate::Result<()>> {
        let names = alive.iter().map(|it| it.chain_id.clone()).collect();
        *self.alive.lock().unwrap() = Some(names);
        Box::pin(async { Ok(()) })
    }

    fn usage(&self, _evidence: &Evidence) -> (u64, u64) {
        (3, 4096)
    }
}

fn evidence(layer: &[u8], layer_number: u16) -> Evidence {
    Evidence {
        reference: "app:1".to_owned(),
        manifest: Digest::sha256(b"manifest"),
        layer: Digest::sha256(layer),
        layer_number,
        diff_id: Digest::sha256(b"diff"),
        index: None,
        class: "plain+signed".to_owned(),
        chain_id: "overwritten by the request".to_owned(),
    }
}

/// What containerd sends with a layer.
fn pulling(layer: &[u8], chain_id: &str) -> Labels {
    let digest = Digest::sha256(layer).to_string();
    [
        (labels::SNAPSHOT_REF, chain_id),
        ("containerd.io/snapshot/cri.image-ref", "app:1"),
        ("containerd.io/snapshot/cri.layer-digest", &digest),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

struct Fixture {
    directory: tempfile::TempDir,
    images: Arc<FakeImages>,
    snapshotter: Snapshotter,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = Arc::new(FakeImages {
            root: directory.path().to_owned(),
            ..FakeImages::default()
        });
        let snapshotter = open(directory.path(), &images).0;
        Self {
            directory,
            images,
            snapshotter,
        }
    }

    fn snapshot(&self, path: &str) -> PathBuf {
        self.directory.path().join("root/snapshots").join(path)
    }
}

fn open(directory: &Path, images: &Arc<FakeImages>) -> (Snapshotter, Reconciled) {
    let options = Options {
        overlay: OverlayOptions::default(),
        ..Options::new(directory.join("root"))
    };
    let images = Arc::clone(images) as Arc<dyn LazyImages>;
    Snapshotter::open(options, images).unwrap()
}

fn text(mounts: &[Mount]) -> String {
    let [mount] = mounts else {
        panic!("{mounts:?}");
    };
    format!(
        "{} {} {}",
        mount.kind,
        mount.source,
        mount.options.join(",")
    )
}

#[tokio::test]
async fn a_lazy_layer_is_committed_and_nothing_is_downloaded() {
    let Fixture {
        images,
        snapshotter: it,
        directory,
    } = &Fixture::new();
    images.set(b"l0", Verdict::Lazy(evidence(b"l0", 0)));
    images.set(b"l1", Verdict::Lazy(evidence(b"l1", 1)));
    for (key, parent, layer, chain) in [("k0", "", b"l0", "c0"), ("k1", "c0", b"l1", "c1")] {
        let prepared = it.prepare(key, parent, pulling(layer, chain)).await;
        assert!(
            matches!(prepared, Err(SnapshotError::AlreadyExists(_))),
            "{prepared:?}"
        );
        let info = it.stat(chain).await.unwrap();
        assert_eq!(info.record.kind, Kind::Committed);
        assert_eq!(info.record.labels[labels::SNAPSHOT_REF], chain);
        assert_eq!(info.record.labels[labels::REMOTE], labels::REMOTE_VALUE);
        assert_eq!(info.record.evidence.unwrap().chain_id, chain);
        assert!(it.stat(key).await.is_err());
    }
    // What containerd's metadata store looks for after AlreadyExists.
    let filter = [r#"labels."containerd.io/snapshot.ref"==c1,parent=="c0""#.to_owned()];
    let found = it.list(Filters::parse(&filter).unwrap()).await.unwrap();
    assert_eq!(found.len(), 1);

    // One overlay over one lower directory for the whole image.
    assert!(images.mounted.lock().unwrap().is_empty());
    let mounts = it.prepare("container", "c1", Labels::new()).await.unwrap();
    let root = directory.path().display();
    let id = it.stat("container").await.unwrap().record.id;
    let own =
        format!("workdir={root}/root/snapshots/{id}/work,upperdir={root}/root/snapshots/{id}/fs");
    let wanted = format!("overlay overlay {own},lowerdir={root}/lower-c1");
    assert_eq!(text(&mounts), wanted);
    assert_eq!(text(&it.mounts("container").await.unwrap()), wanted);
    let view = it.view("view", "c0", Labels::new()).await.unwrap();
    assert_eq!(text(&view), format!("bind {root}/lower-c0 ro,rbind"));
    let usage = it.usage("c1").await.unwrap();
    assert_eq!((usage.inodes, usage.bytes), (3, 4096));

    // Clean-up says what is still needed.
    for key in ["container", "c1"] {
        it.remove(key).await.unwrap();
    }
    it.cleanup().await.unwrap();
    // The sweep that the removal began may be the one that tells, and still be under way.
    let told = async {
        while images.alive.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told)
        .await
        .unwrap();
    assert_eq!(*images.alive.lock().unwrap(), Some(vec!["c0".to_owned()]));
    assert_eq!(it.audit().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn layers_above_a_lazy_one_may_be_unpacked() {
    let fixture = &Fixture::new();
    let it = &fixture.snapshotter;
    fixture.images.set(b"l0", Verdict::Lazy(evidence(b"l0", 0)));
    let why = "small".to_owned();
    fixture.images.set(b"l1", Verdict::Unpack { why });
    // Lazy by itself, but what is below it is not.
    fixture.images.set(b"l2", Verdict::Lazy(evidence(b"l2", 2)));
    let _exists = it
        .prepare("k0", "", pulling(b"l0", "c0"))
        .await
        .unwrap_err();
    let root = fixture.directory.path().display().to_string();
    let mut lowers = format!("{root}/lower-c0");
    for (key, parent, layer, chain) in [("k1", "c0", b"l1", "c1"), ("k2", "c1", b"l2", "c2")] {
        let mounts = it
            .prepare(key, parent, pulling(layer, chain))
            .await
            .unwrap();
        assert!(
            text(&mounts).ends_with(&format!("lowerdir={lowers}")),
            "{mounts:?}"
        );
        let id = it.stat(key).await.unwrap().record.id;
        fs::write(fixture.snapshot(&format!("{id}/fs/{key}")), "x").unwrap();
        it.commit(chain, key, "", pulling(layer, chain))
            .await
            .unwrap();
        lowers = format!("{root}/root/snapshots/{id}/fs:{lowers}");
        assert_eq!(it.usage(chain).await.unwrap().inodes, 2);
    }
    let mounts = it.view("v", "c2", Labels::new()).await.unwrap();
    assert_eq!(text(&mounts), format!("overlay overlay lowerdir={lowers}"));
}

#[tokio::test]
async fn a_refusal_leaves_nothing_and_a_later_pull_succeeds() {
    let fixture = &Fixture::new();
    let it = &fixture.snapshotter;
    let refused = it
        .prepare("k0", "", pulling(b"l0", "c0"))
        .await
        .unwrap_err();
    let status = tonic::Status::from(refused);
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert_eq!(status.message(), "image app:1: not signed (hint: sign it)");
    assert!(
        it.list(Filters::parse(&[]).unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(it.audit().await.unwrap(), Vec::<String>::new());

    fixture.images.set(b"l0", Verdict::Lazy(evidence(b"l0", 0)));
    let again = it.prepare("k0", "", pulling(b"l0", "c0")).await;
    assert!(matches!(again, Err(SnapshotError::AlreadyExists(_))));
    assert_eq!(fixture.images.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn malformed_labels_do_not_go_round_the_policy() {
    let it = Fixture::new();
    let mut labels = pulling(b"l0", "c0");
    labels.insert("containerd.io/snapshot/cri.layer-digest".into(), "x".into());
    let refused = it.snapshotter.prepare("k0", "", labels).await;
    assert!(matches!(refused, Err(SnapshotError::InvalidArgument(_))));
}

#[tokio::test]
async fn directories_go_at_once_or_with_the_clean_up() {
    let fixture = &Fixture::new();
    let it = &fixture.snapshotter;
    it.prepare("a", "", Labels::new()).await.unwrap();
    let id = it.stat("a").await.unwrap().record.id;
    it.remove("a").await.unwrap();
    assert!(fixture.snapshot(&id.to_string()).exists());
    assert_eq!(it.audit().await.unwrap().len(), 1);
    it.cleanup().await.unwrap();
    assert!(!fixture.snapshot(&id.to_string()).exists());

    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        async_remove: false,
        ..Options::new(directory.path())
    };
    let (it, _) = Snapshotter::open(options, Arc::new(NoLazyImages)).unwrap();
    it.prepare("a", "", Labels::new()).await.unwrap();
    it.remove("a").await.unwrap();
    assert_eq!(it.audit().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_start_brings_database_and_disk_together() {
    let fixture = Fixture::new();
    let it = &fixture.snapshotter;
    for key in ["kept", "gone"] {
        it.prepare(key, "", Labels::new()).await.unwrap();
    }
    let id = it.stat("gone").await.unwrap().record.id;
    fs::remove_dir_all(fixture.snapshot(&id.to_string())).unwrap();
    // As crashes in a prepare and in a removal leave them.
    for orphan in ["new-0/fs", "77/fs"] {
        fs::create_dir_all(fixture.snapshot(orphan)).unwrap();
    }
    let Fixture {
        directory,
        images,
        snapshotter,
    } = fixture;
    drop(snapshotter);
    let (it, found) = open(directory.path(), &images);
    assert_eq!(found.removed, 2);
    assert_eq!(found.damaged, ["gone"]);
    it.remove("gone").await.unwrap();
    drop(it);
    let (it, found) = open(directory.path(), &images);
    assert_eq!(found, Reconciled::default());
    assert!(it.mounts("kept").await.is_ok());
    assert_eq!(it.audit().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_lazy_says_so_when_that_is_switched_off() {
    let Fixture {
        directory,
        images,
        snapshotter: it,
    } = Fixture::new();
    images.set(b"l0", Verdict::Lazy(evidence(b"l0", 0)));
    let _exists = it
        .prepare("k0", "", pulling(b"l0", "c0"))
        .await
        .unwrap_err();
    drop(it);
    let options = Options::new(directory.path().join("root"));
    let (it, _) = Snapshotter::open(options, Arc::new(NoLazyImages)).unwrap();
    let error = it
        .prepare("container", "c0", Labels::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("switched off"), "{error}");
    assert!(it.stat("container").await.is_err());
    it.remove("c0").await.unwrap();
}

#[tokio::test]
async fn states_that_have_no_mounts() {
    let fixture = Fixture::new();
    let it = &fixture.snapshotter;
    it.prepare("a", "", Labels::new()).await.unwrap();
    it.commit("base", "a", "", Labels::new()).await.unwrap();
    let committed = it.mounts("base").await;
    assert!(matches!(
        committed,
        Err(SnapshotError::FailedPrecondition(_))
    ));
    assert!(matches!(
        it.mounts("a").await,
        Err(SnapshotError::NotFound(_))
    ));
    let missing = it.prepare("b", "none", Labels::new()).await;
    assert!(matches!(missing, Err(SnapshotError::NotFound(_))));
    it.prepare("b", "base", Labels::new()).await.unwrap();
    let active = it.prepare("c", "b", Labels::new()).await;
    assert!(matches!(active, Err(SnapshotError::InvalidArgument(_))));
    let taken = it.view("b", "base", Labels::new()).await;
    assert!(matches!(taken, Err(SnapshotError::AlreadyExists(_))));
}
