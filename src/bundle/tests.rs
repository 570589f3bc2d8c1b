//! Unpacking as a whole: what is left when it ends badly, which layer and entry an error names, and
//! changes between layers that few tools make.

use std::{
    io::Write as _,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::PathBuf,
};

use bytes::Bytes;
use futures::{future::BoxFuture, stream};

use super::*;
use crate::{
    oci::media_type::Compression,
    source::{BlobStream, MemoryBlob},
};

/// Directory, file with content, symbolic link or hard link.
enum Put<'a> {
    Dir(&'a str),
    File(&'a [u8], &'a [u8]),
    Symlink(&'a str, &'a str),
    Link(&'a str, &'a str),
}

use Put::{Dir, File, Link, Symlink};

fn tar(puts: &[Put<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for put in puts {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        let kind = match put {
            Dir(_) => tar::EntryType::Directory,
            File(..) => tar::EntryType::Regular,
            Symlink(..) => tar::EntryType::Symlink,
            Link(..) => tar::EntryType::Link,
        };
        header.set_entry_type(kind);
        match put {
            Dir(path) => builder.append_data(&mut header, path, &b""[..]).unwrap(),
            File(path, content) => {
                header.set_size(content.len() as u64);
                // The builder refuses what an attacker would write.
                let name = &mut header.as_mut_bytes()[..100];
                if path.len() <= name.len() {
                    name[..path.len()].copy_from_slice(path);
                    header.set_cksum();
                    builder.append(&header, *content).unwrap();
                } else {
                    let path = std::ffi::OsStr::from_bytes(path);
                    builder.append_data(&mut header, path, *content).unwrap();
                }
            }
            Symlink(path, target) | Link(path, target) => {
                builder.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// A blob that ends with an error after some of its bytes, as a decrypting or verifying source does.
#[derive(Debug)]
struct Failing(MemoryBlob, usize);

impl BlobSource for Failing {
    fn digest(&self) -> &Digest {
        self.0.digest()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.read_at(range)
    }

    fn stream(&self) -> BoxFuture<'_, Result<BlobStream>> {
        let length = self.1 as u64;
        Box::pin(async move {
            let bytes = self.0.read_at(0..length).await;
            let error = Err(Error::corrupt("hmac mismatch"));
            Ok(stream::iter([bytes, error]).boxed())
        })
    }
}

fn layer(compression: Compression, tar: &[u8], blob: Vec<u8>) -> Layer {
    let source = MemoryBlob::new(blob.into());
    Layer {
        digest: source.digest().clone(),
        kind: LayerKind {
            compression,
            encrypted: false,
        },
        diff_id: Digest::sha256(tar),
        source: Arc::new(source),
    }
}

fn plain(puts: &[Put<'_>]) -> Layer {
    let tar = tar(puts);
    layer(Compression::None, &tar, tar.clone())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn rootfs(&self) -> PathBuf {
        self.0.path().join("bundle/rootfs")
    }

    fn unpack(&self, layers: Vec<Layer>) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(unpack(layers, &self.rootfs(), |_| {}))
    }

    /// Unpacks what must fail, and checks that nothing is left.
    fn refused(&self, layers: Vec<Layer>) -> Error {
        let error = self.unpack(layers).unwrap_err();
        assert!(
            !self.0.path().join("bundle").exists(),
            "left behind: {error}"
        );
        error
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.rootfs().join(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.rootfs().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn all_compressions_of_several_parts() {
    let tar = tar(&[Dir("d"), File(b"d/f", &[b'x'; 300_000])]);
    let (first, second) = tar.split_at(1234);
    let parts = |encode: &dyn Fn(&[u8]) -> Vec<u8>| [encode(first), encode(second)].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    for layer in [
        layer(Compression::None, &tar, tar.clone()),
        layer(Compression::Gzip, &tar, parts(&gzip)),
        layer(Compression::Zstd, &tar, parts(&zstd)),
    ] {
        let bench = Bench::new();
        bench.unpack(vec![layer]).unwrap();
        assert_eq!(bench.read("d/f").len(), 300_000);
        let directory = std::fs::metadata(bench.rootfs().join("d")).unwrap();
        assert_eq!(
            (directory.mtime(), directory.mode() & 0o7777),
            (1000, 0o755)
        );
        let beside = std::fs::read_dir(bench.0.path().join("bundle")).unwrap();
        assert_eq!(beside.count(), 1);
    }
}

#[test]
fn image_rs_defect_8_what_is_not_verified_leaves_nothing() {
    let bench = Bench::new();
    let good = || plain(&[File(b"good", b"x")]);

    let mut wrong = plain(&[File(b"a", b"x")]);
    wrong.diff_id = Digest::sha256(b"another");
    let error = bench.refused(vec![good(), wrong.clone()]);
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains(&wrong.digest.to_string()));

    // Bytes behind the end mark of the tar are part of the DiffID.
    let mut long = tar(&[File(b"a", b"x")]);
    let short = long.clone();
    long.extend([0; 700]);
    let error = bench.refused(vec![layer(Compression::None, &short, long)]);
    assert_eq!(error.kind(), Kind::Corrupt);

    // The last bytes came; the verdict on them is bad.
    let tar = tar(&[File(b"a", b"x")]);
    let mut late = layer(Compression::None, &tar, tar.clone());
    late.source = Arc::new(Failing(MemoryBlob::new(tar.clone().into()), tar.len()));
    let error = bench.refused(vec![good(), late]);
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("hmac mismatch"));

    // Damage that the decompressor meets first is still the source's to explain.
    let mut damaged = gzip(&tar);
    damaged[0] ^= 1;
    let length = damaged.len();
    let mut stumbling = layer(Compression::Gzip, &tar, damaged.clone());
    let error = bench.refused(vec![stumbling.clone()]);
    assert_eq!(error.kind(), Kind::Invalid);
    stumbling.source = Arc::new(Failing(MemoryBlob::new(damaged.into()), length));
    let error = bench.refused(vec![stumbling]);
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");

    let mut cut = gzip(&tar);
    cut.truncate(cut.len() - 9);
    let error = bench.refused(vec![layer(Compression::Gzip, &tar, cut)]);
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn what_would_leave_the_root_stays_inside_or_is_refused() {
    let bench = Bench::new();
    for path in [&b"../escaped"[..], b"a/../../escaped", b"/../escaped"] {
        let error = bench.refused(vec![plain(&[File(path, b"x")])]);
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("escaped"), "{error}");
    }
    let outside = bench.0.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let outside_text = outside.to_str().unwrap();
    bench
        .unpack(vec![plain(&[
            Symlink("absolute", outside_text),
            File(b"absolute/x", b"x"),
            Symlink("up", "../../../../../../../.."),
            File(b"up/y", b"y"),
            Symlink("file", "/etc/passwd"),
            // Replaces the link, not what it names.
            File(b"file", b"mine"),
        ])])
        .unwrap();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(
        bench.read(&format!("{}/x", outside_text.trim_start_matches('/'))),
        "x"
    );
    assert_eq!(bench.read("y"), "y");
    assert_eq!(bench.read("file"), "mine");
    assert!(
        std::fs::symlink_metadata(bench.rootfs().join("file"))
            .unwrap()
            .is_file()
    );
}

#[test]
fn malformed_entries_name_layer_and_entry() {
    let bench = Bench::new();
    let long = [&b"dir/"[..], &[b'n'; 300]].concat();
    for (puts, want) in [
        (vec![File(&long, b"")], "300 bytes"),
        (vec![Link("a", "missing")], "no such entry"),
        (vec![Dir("d"), Link("a", "d")], "not a file"),
        (vec![File(b"f", b""), File(b"f/x", b"")], "not a directory"),
        (vec![File(b".wh.", b"")], "whiteout of no name"),
        (vec![Symlink("l", "l"), File(b"l/x", b"")], "symbolic links"),
    ] {
        let layer = plain(&puts);
        let digest = layer.digest.to_string();
        let error = bench.refused(vec![layer]);
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        let text = error.to_string();
        assert!(text.contains(want) && text.contains(&digest), "{text}");
        assert!(text.contains("entry \""), "{text}");
    }
}

#[test]
fn whiteouts_spare_their_own_layer_wherever_they_stand() {
    let bench = Bench::new();
    bench
        .unpack(vec![
            plain(&[
                Dir("d"),
                Dir("d/sub"),
                File(b"d/sub/lower", b""),
                File(b"d/lower", b""),
                Dir("e"),
                File(b"e/lower", b""),
                Dir("real"),
                File(b"real/lower", b""),
                Symlink("alias", "real"),
                File(b"f", b"lower"),
            ]),
            plain(&[
                Dir("d"),
                Dir("d/sub"),
                File(b"d/sub/upper", b""),
                File(b"d/.wh..wh..opq", b""),
                // Nothing names `e` as a directory of this layer, but something is in it.
                File(b"e/upper", b""),
                File(b".wh.e", b""),
                // Made through a link, spared by its real name.
                File(b"alias/upper", b""),
                File(b"real/.wh..wh..opq", b""),
                File(b"f", b"upper"),
                File(b".wh.f", b""),
                File(b".wh..wh.plnk", b""),
                File(b"missing/.wh.x", b""),
            ]),
        ])
        .unwrap();
    assert_eq!(bench.names("d"), ["sub"]);
    assert_eq!(bench.names("d/sub"), ["upper"]);
    assert_eq!(bench.names("e"), ["upper"]);
    assert_eq!(bench.names("real"), ["upper"]);
    assert_eq!(bench.read("f"), "upper");
    assert_eq!(bench.names(""), ["alias", "d", "e", "f", "real"]);
}

#[test]
fn old_gnu_sparse_files() {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header.set_size(512 + 3);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].set_offset(1024);
    gnu.sparse[0].set_length(512);
    gnu.sparse[1].set_offset(1 << 20);
    gnu.sparse[1].set_length(3);
    gnu.set_real_size(2 << 20);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([b'a'; 512]);
    bytes.extend(b"end");
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    let bench = Bench::new();
    bench
        .unpack(vec![layer(Compression::None, &bytes, bytes.clone())])
        .unwrap();
    let mut want = vec![0; 2 << 20];
    want[1024..1536].fill(b'a');
    want[1 << 20..(1 << 20) + 3].copy_from_slice(b"end");
    assert!(std::fs::read(bench.rootfs().join("sparse")).unwrap() == want);
    let blocks = std::fs::metadata(bench.rootfs().join("sparse"))
        .unwrap()
        .blocks();
    assert!(blocks < 100, "{blocks} blocks for two runs");
}

#[test]
fn an_existing_root_is_kept_and_a_left_behind_one_removed() {
    let bench = Bench::new();
    let parent = bench.0.path().join("bundle");
    let left = parent.join(".rootfs.partial-0123456789abcdef");
    std::fs::create_dir_all(left.join("rootfs/sub")).unwrap();
    // One that somebody is using.
    let used = parent.join(".rootfs.partial-used");
    std::fs::create_dir(&used).unwrap();
    let lock = std::fs::File::open(&used).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    bench.unpack(vec![plain(&[File(b"first", b"1")])]).unwrap();
    assert!(!left.exists() && used.exists());
    let error = bench
        .unpack(vec![plain(&[File(b"second", b"2")])])
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert_eq!(bench.names(""), ["first"]);

    let bench = Bench::new();
    std::fs::create_dir(bench.0.path().join("bundle")).unwrap();
    symlink("nowhere", bench.rootfs()).unwrap();
    assert_eq!(bench.unpack(Vec::new()).unwrap_err().kind(), Kind::Busy);
}

#[test]
fn a_bundle_whose_user_is_unknown_is_not_made() {
    let config = |user: &str| -> ImageConfig {
        serde_json::from_value(serde_json::json!({
            "os": "linux", "architecture": "amd64", "config": { "User": user },
            "rootfs": { "type": "layers", "diff_ids": [] },
        }))
        .unwrap()
    };
    let bench = Bench::new();
    let directory = bench.0.path().join("bundle");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let create = |user: &str| {
        runtime.block_on(create(
            vec![plain(&[
                Dir("etc"),
                File(b"etc/passwd", b"app:x:7:7::/:\n"),
            ])],
            config(user),
            &directory,
            RuntimeOptions::default(),
            |_| {},
        ))
    };
    assert_eq!(create("nobody").unwrap_err().kind(), Kind::Invalid);
    assert!(!directory.exists());
    create("app").unwrap();
    let text = std::fs::read(directory.join("config.json")).unwrap();
    let made: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(made["process"]["user"]["uid"], 7);
    assert_eq!(create("app").unwrap_err().kind(), Kind::Busy);
}
