//! EROFS images as the kernel and erofs-utils read them, over a plain file as the data device. Needs
//! root and a kernel that mounts EROFS from files; some tests erofs-utils, umoci and others. Each says
//! what is missing when it skips.

// Clippy knows only functions marked as tests, not those that they call.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use nacre::engine::{EngineConfig, ReadFile};
use nacre::erofs::{Device, Layout, write};
use nacre::index::{Entry, EntryKind};
use nacre::keys::{KeyConfig, Keyring};
use nacre::oci::{Platform, Reference};
use nacre::open::Opener;
use nacre::source::Access;
use nacre::store::{Store, StoreConfig};
use nacre::tree::Tree;
use nacre::trust::Policy;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

mod fixture;
mod support;

use fixture::tree::{Shown, assert_same, odd_image};
use fixture::{Image, entry};
use support::pipeline::{Format, Pipeline};
use support::tree_compare;

const FORMATS: [Format; 2] = [Format::Estargz, Format::ZstdChunked];

/// An image and its device as files in a directory of their own.
struct Made {
    directory: tempfile::TempDir,
}

/// A mounted one.
struct Mounted(PathBuf);

// === impl Made ===

impl Made {
    fn new(tree: &Arc<Tree>, reader: &Arc<dyn ReadFile>) -> Made {
        let made = Made {
            directory: tempfile::tempdir().unwrap(),
        };
        let layout = || Layout::new(tree, |file| reader.zeros(file)).unwrap();
        let image = File::create(made.image()).unwrap();
        let written = write(tree, &layout(), &image).unwrap();
        assert_eq!(image.metadata().unwrap().len(), written.bytes);
        let device = Device::new("d", "i", Arc::clone(tree), layout(), Arc::clone(reader));
        fill(&device, &made.device());
        made
    }

    fn of(image: &Image) -> (Made, Arc<Tree>) {
        let (tree, reader) = image.build();
        let reader = reader as Arc<dyn ReadFile>;
        (Made::new(&tree, &reader), tree)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn device(&self) -> PathBuf {
        self.directory.path().join("device")
    }

    /// `None` after saying why the kernel does not.
    fn mount(&self) -> Option<Mounted> {
        let place = self.directory.path().join("mnt");
        fs::create_dir_all(&place).unwrap();
        let device = format!("device={}", self.device().display());
        let image = self.image();
        let kind = Some("erofs");
        match mount(
            Some(&image),
            &place,
            kind,
            MsFlags::MS_RDONLY,
            Some(&*device),
        ) {
            Ok(()) => Some(Mounted(place)),
            Err(errno @ (Errno::EPERM | Errno::ENODEV | Errno::ENOTBLK)) => {
                println!("skipped: no EROFS mounts from files here: {errno}");
                None
            }
            Err(errno) => panic!("mount: {errno}"),
        }
    }

    /// Runs a tool of erofs-utils; `None` if it is not installed.
    fn tool(&self, tool: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(tool)
            .args(arguments)
            .arg(format!("--device={}", self.device().display()))
            .arg(self.image())
            .output();
        let Ok(output) = output else {
            println!("skipped: {tool} is not installed (erofs-utils)");
            return None;
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{tool}: {text}");
        Some(text)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Reads a device through and writes what is no hole.
fn fill(device: &Device, path: &Path) {
    let mut file = File::create(path).unwrap();
    let bytes = device.layout().bytes();
    let mut at = 0;
    while at < bytes {
        let length = u32::try_from((bytes - at).min(1 << 20)).unwrap();
        let (send, receive) = mpsc::channel();
        let done = move |result: nacre::Result<Bytes>| send.send(result).unwrap();
        device.read(at, length, Box::new(done));
        let read = receive.recv().unwrap().unwrap();
        assert_eq!(read.len(), length as usize);
        if read.iter().any(|&byte| byte != 0) {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&read).unwrap();
        }
        at += u64::from(length);
    }
    file.set_len(bytes).unwrap();
}

fn can_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: mounting needs root");
    }
    root
}

/// What the format has special forms for.
fn tricky_image() -> Image {
    let mut image = odd_image();
    image.directory("").mode = 0o755;
    // Around `.` and `..` in the order of names.
    for name in ["!", "-", ".-", "...", ".a", "0", "~"] {
        image.file(format!("dots/{name}"), name.to_owned());
    }
    image.directory("no-entries");
    // More than a block of entries, with names of all lengths, and very many.
    for number in 0..300_usize {
        let mut name = format!("long/{number:03}").into_bytes();
        name.resize(name.len() + number % 250, b'x');
        image.add(entry(name, EntryKind::Fifo));
    }
    for number in 0..5000 {
        image.add(entry(format!("many/{number}"), EntryKind::Fifo));
    }
    // A last block of every length around those that are stored with the inode.
    for count in (1..80).chain(100..130) {
        for number in 0..count {
            let name = format!("lengths/{count}/{number:020}");
            image.add(entry(name, EntryKind::Fifo));
        }
    }
    for length in [1, 40, 59, 60, 61, 2900, 2936, 2937, 4000, 4095] {
        let target = EntryKind::Symlink(vec![b't'; length].into());
        image.add(entry(format!("links/{length}"), target));
    }
    let mut deep = "deep".to_owned();
    for _ in 0..100 {
        deep.push_str("/d");
    }
    image.file(&deep, "down here");
    for number in 0..70_000_u32 {
        // More links than the short form of an inode counts.
        let target = EntryKind::Hardlink(b"dots/0"[..].into());
        image.add(entry(format!("hard/{}/{number}", number % 7), target));
    }
    // Attributes that several files share, that one has, large ones, very many.
    let value = |length: usize| vec![b'v'; length].into_boxed_slice();
    for number in 0..20_usize {
        let it = image.file(format!("attributes/{number}"), "x");
        it.xattrs = vec![
            (
                b"security.selinux"[..].into(),
                b"system_u:object_r:x\0"[..].into(),
            ),
            (b"user.own"[..].into(), value(number * 200)),
            (b"trusted.t"[..].into(), b""[..].into()),
        ];
    }
    let it = image.add(entry(
        "attributes/link",
        EntryKind::Symlink(vec![b'l'; 100].into()),
    ));
    it.xattrs = vec![(b"trusted.large"[..].into(), value(60_000))];
    let it = image.directory("attributes/directory");
    it.xattrs = vec![(b"user.large"[..].into(), value(5_000))];
    for copy in 0..2 {
        let it = image.file(format!("attributes/many-{copy}"), "x");
        it.xattrs = (0..400_u32)
            .map(|number| {
                let name = format!("user.{number}").into_bytes();
                (name.into(), number.to_le_bytes()[..].into())
            })
            .collect();
    }
    let acl = hex::decode(concat!(
        "02000000",
        "01000700ffffffff",
        "02000500e8030000",
        "04000500ffffffff",
        "10000500ffffffff",
        "20000500ffffffff"
    ));
    let acl = acl.unwrap().into_boxed_slice();
    let it = image.directory("attributes/acl");
    it.xattrs = vec![
        (b"system.posix_acl_access"[..].into(), acl.clone()),
        (b"system.posix_acl_default"[..].into(), acl),
    ];
    // Sizes around blocks, and holes.
    for size in [1, 4095, 4096, 4097, 8191, 8192, 1 << 20] {
        let content: Vec<u8> = (0..size)
            .map(|it| u8::try_from(it % 251).unwrap())
            .collect();
        image.file(format!("sizes/{size}"), content);
    }
    image.sparse("holes/all", 3 << 20, Vec::new());
    image.sparse("holes/huge", (1 << 62) + 5, Vec::new());
    let ends = vec![
        (0, Bytes::from("first")),
        ((1 << 36) - 4, Bytes::from("last")),
    ];
    image.sparse("holes/ends", 1 << 36, ends);
    let middle = vec![(10_000, Bytes::from(vec![b'm'; 9000]))];
    image.sparse("holes/middle", 40_001, middle);
    image
}

fn check_content(place: &Path) {
    let read = |path: &str| fs::read(place.join(path)).unwrap();
    assert_eq!(read("other"), b"#!/bin/sh\necho hello\n");
    assert_eq!(read("empty"), b"");
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    assert!(read("large") == large);
    for size in [1, 4095, 4096, 4097, 8191, 8192, 1 << 20] {
        let content: Vec<u8> = (0..size)
            .map(|it| u8::try_from(it % 251).unwrap())
            .collect();
        assert!(read(&format!("sizes/{size}")) == content, "{size} bytes");
    }
    assert!(read("holes/all") == vec![0; 3 << 20]);
    let mut middle = vec![0; 40_001];
    middle[10_000..19_000].fill(b'm');
    assert!(read("holes/middle") == middle);
    let at = |path: &str, offset: u64| {
        let mut bytes = [9; 8];
        let file = File::open(place.join(path)).unwrap();
        let length = file.read_at(&mut bytes, offset).unwrap();
        bytes[..length].to_vec()
    };
    assert_eq!(at("holes/huge", 1 << 62), [0; 5]);
    assert_eq!(at("holes/huge", 1 << 61), [0; 8]);
    assert_eq!(at("holes/ends", 0), b"first\0\0\0");
    assert_eq!(at("holes/ends", (1 << 36) - 6), b"\0\0last");
    assert_eq!(at("holes/ends", 1 << 35), [0; 8]);
}

#[test]
fn the_kernel_shows_the_tree() {
    if !can_mount() {
        return;
    }
    let (made, tree) = Made::of(&tricky_image());
    let Some(mounted) = made.mount() else { return };
    assert_same(&mounted.0, &tree, Shown::BY_EROFS);
    check_content(&mounted.0);
    let missing = fs::metadata(mounted.0.join("many/x")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn erofs_utils_accept_it() {
    let (made, tree) = Made::of(&tricky_image());
    let Some(said) = made.tool("fsck.erofs", &["-d3"]) else {
        return;
    };
    assert!(said.contains("No errors found"), "{said}");
    let said = made.tool("dump.erofs", &["-s"]).unwrap();
    let line = |key: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(key));
        let found = found.unwrap_or_else(|| panic!("no {key} in {said}"));
        found.trim().to_owned()
    };
    assert_eq!(
        line("Filesystem inode count:").parse(),
        Ok(tree.inode_count())
    );
    assert!(line("Filesystem features:").contains("chunked_file"));
    let said = made.tool("dump.erofs", &["-S"]).unwrap();
    assert!(said.contains("Filesystem total"), "{said}");
    let said = made.tool("dump.erofs", &["--path=/bin/tool"]).unwrap();
    assert!(said.contains("Links: 3"), "{said}");
}

#[test]
fn an_image_of_nothing() {
    if !can_mount() {
        return;
    }
    let (made, tree) = Made::of(&Image::new());
    let Some(mounted) = made.mount() else { return };
    assert_same(&mounted.0, &tree, Shown::BY_EROFS);
    made.tool("fsck.erofs", &[]);
}

#[test]
fn random_trees_are_shown() {
    if !can_mount() || Made::of(&Image::new()).0.mount().is_none() {
        return;
    }
    // Nothing is kept of a failure but what it prints.
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(100)
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&prop::collection::vec(random_entry(), 0..120), |entries| {
        let mut image = Image::new();
        for (path, kind, metadata) in &entries {
            add(&mut image, path, kind, metadata);
        }
        // What no file system could hold, the tree refuses.
        if Tree::merge(image.layers.clone()).is_err() {
            return Ok(());
        }
        let (made, tree) = Made::of(&image);
        let mounted = made.mount().unwrap();
        assert_same(&mounted.0, &tree, Shown::BY_EROFS);
        let (_, reader) = image.build();
        for (path, ino) in tree.walk() {
            let Some(file) = tree.file(ino) else { continue };
            let (send, receive) = mpsc::channel();
            let done = move |result: nacre::Result<Bytes>| send.send(result).unwrap();
            let length = u32::try_from(file.size).unwrap();
            reader.read(file, 0, length, Box::new(done));
            let expected = receive.recv().unwrap().unwrap();
            let found = fs::read(fixture::tree::below(&mounted.0, &path)).unwrap();
            prop_assert!(found == expected, "{}", path.escape_ascii());
        }
        Ok(())
    });
    result.unwrap();
}

#[derive(Clone, Debug)]
enum Random {
    Directory,
    File(usize),
    Symlink(usize),
    Hardlink(Vec<u8>),
    Device(u32, u32),
    Fifo,
}

type Metadata = (u16, (u32, u32), (i64, u32), Vec<(u8, usize)>);

fn random_path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => "[a-c]",
        2 => "[!-~&&[^/]]{1,12}",
        1 => "[a-z]{200,255}",
    ];
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/").into_bytes());
    path.prop_filter("not a path", |path| {
        let mut parts = path.split(|&byte| byte == b'/');
        parts.all(|part| part != b"." && part != b".." && !part.starts_with(b".wh."))
    })
}

fn random_entry() -> impl Strategy<Value = (Vec<u8>, Random, Metadata)> {
    let kind = prop_oneof![
        2 => Just(Random::Directory),
        6 => prop_oneof![0_usize..20_000, Just(4096), Just(0)].prop_map(Random::File),
        2 => prop_oneof![1_usize..200, 1_usize..4095].prop_map(Random::Symlink),
        2 => random_path().prop_map(Random::Hardlink),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Random::Device(major, minor)),
        1 => Just(Random::Fifo),
    ];
    let number = || prop_oneof![Just(0), 0_u32..70_000, any::<u32>()];
    let time = prop_oneof![Just((7, 0)), (-1_i64 << 33..1 << 33, 0_u32..1_000_000_000)];
    let xattrs = prop::collection::vec((0_u8..6, 0_usize..300), 0..5);
    let metadata = (0_u16..0o10000, (number(), number()), time, xattrs);
    (random_path(), kind, metadata)
}

fn add(image: &mut Image, path: &[u8], kind: &Random, metadata: &Metadata) {
    let special = |kind| entry(path, kind);
    let added: &mut Entry = match kind {
        Random::Directory => image.directory(path),
        Random::File(size) => {
            let bytes = (0..*size).map(|it| u8::try_from(it % 253).unwrap());
            image.file(path, bytes.collect::<Vec<u8>>())
        }
        Random::Symlink(length) => {
            image.add(special(EntryKind::Symlink(vec![b'l'; *length].into())))
        }
        Random::Hardlink(target) => image.add(special(EntryKind::Hardlink(target.clone().into()))),
        &Random::Device(major, minor) => image.add(special(EntryKind::CharDevice { major, minor })),
        Random::Fifo => image.add(special(EntryKind::Fifo)),
    };
    let (mode, (uid, gid), (mtime, mtime_nanos), xattrs) = metadata;
    added.mode = *mode;
    // The highest number stands for none.
    (added.uid, added.gid) = (*uid.min(&(u32::MAX - 1)), *gid.min(&(u32::MAX - 1)));
    (added.mtime, added.mtime_nanos) = (*mtime, *mtime_nanos);
    // Only files and directories have those of users.
    let names = match added.kind {
        EntryKind::Regular { .. } | EntryKind::Directory => [
            "user.a",
            "user.b",
            "trusted.a",
            "security.a",
            "user.long-name",
            "user.c",
        ],
        _ => [
            "trusted.a",
            "trusted.b",
            "trusted.long-name",
            "security.a",
            "security.b",
            "security.c",
        ],
    };
    added.xattrs = { xattrs.iter() }
        .map(|&(name, length)| {
            let name = names[usize::from(name)].as_bytes();
            (name.into(), vec![b'v'; length].into())
        })
        .collect();
}

/// Opens a layout's image and makes the files of it.
fn made_of_layout(reference: &str, store: &Path) -> Made {
    let reference: Reference = reference.parse().unwrap();
    let opener = Opener {
        policy: Policy::insecure_accept_anything(),
        keyring: Keyring::new(&KeyConfig::default()).unwrap(),
        store: Arc::new(
            Store::open(&StoreConfig {
                memory_bytes: 64 << 20,
                disk: Some((store.to_owned(), 4 << 30)),
                indexes: None,
            })
            .unwrap(),
        ),
        engine: EngineConfig::RECOMMENDED,
        platform: Platform::host(),
        expected_digest: None,
        findings: None,
        insecure_plaintext_store: false,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (repository, location) = Access::default().open(&reference).await.unwrap();
        let opened = opener.open(&reference, &repository, &location).await;
        let opened = opened.unwrap();
        let reader = Arc::clone(&opened.engine) as Arc<dyn ReadFile>;
        tokio::task::block_in_place(|| Made::new(&opened.tree, &reader))
    })
}

/// Compares the mounted image of a layout with what umoci unpacks of it.
fn equals_an_unpacked_one(pipeline: &Pipeline, layout: &str, formats: &[Format]) {
    let unpacked = pipeline.unpack(layout, "unpacked");
    for &format in formats {
        let lazy = pipeline.convert(layout, format.name(), format);
        let store = pipeline.path(&format!("store-{}", format.name()));
        let made = made_of_layout(&lazy, &store);
        let Some(mounted) = made.mount() else { return };
        tree_compare::assert_same(&tree_compare::compare(&unpacked, &mounted.0));
        made.tool("fsck.erofs", &[]);
    }
}

#[test]
fn the_odd_image_equals_an_unpacked_one() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let odd = support::images::odd_image(&pipeline.path("odd"));
    equals_an_unpacked_one(&pipeline, &odd.reference(), &FORMATS);
}

#[test]
fn fifty_thousand_files_equal_an_unpacked_image() {
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let small = support::images::small_files_image(&pipeline.path("small"), 50_000);
    equals_an_unpacked_one(&pipeline, &small.reference(), &[Format::Estargz]);
}

#[test]
fn a_debian_image_equals_an_unpacked_one() {
    let Some(layout) = std::env::var_os("NACRE_DEBIAN_IMAGE") else {
        println!(
            "skipped: NACRE_DEBIAN_IMAGE names no layout (scripts/make-debian-image makes one)"
        );
        return;
    };
    let Some(pipeline) = Pipeline::start() else {
        return;
    };
    let source = format!("oci:{}:latest", Path::new(&layout).display());
    equals_an_unpacked_one(&pipeline, &source, &[Format::Estargz]);
}
