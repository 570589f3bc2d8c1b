//! Life of an EROFS mount: made, by whichever way the kernel has, taken away, and what is left when its
//! process dies. Needs root, /dev/fuse and a kernel that mounts EROFS from files or loop devices; says
//! what is missing when it skips.

// Clippy knows only functions marked as tests, not those that they call.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nacre::Kind;
use nacre::engine::ReadFile;
use nacre::keeper::Keeper;
use nacre::mount::{
    Erofs, FrontEnd, MountOptions, Mounted, Overlays, StopSignals, UmountOptions, Unmounted,
    mount_by, umount,
};
use nacre::snapshotter::images::{self, FrontEnd as _};
use nacre::sys::{mountinfo, processes};
use nix::sys::signal::Signal;

mod fixture;

use fixture::tree::{Shown, assert_same, odd_image};
use fixture::{Image, can_mount_erofs, place};

const WAIT: UmountOptions = UmountOptions {
    lazy: false,
    timeout: Duration::from_secs(10),
};

fn image() -> Image {
    let mut image = Image::new();
    image.file("d/file", vec![b'x'; 50_000]);
    image
}

/// Mounts by a front end, with the metadata image in `images`.
fn mount_in(
    image: &Image,
    front_end: FrontEnd,
    images: &Path,
    place: &Path,
) -> nacre::Result<Mounted> {
    let (tree, reader) = image.build();
    let options = MountOptions::new("test/image:1");
    mount_by(
        front_end,
        tree,
        reader,
        place,
        &[images.to_owned()],
        &options,
    )
}

/// Type and source of what is mounted at a place.
fn mounted_at(place: &Path) -> Option<(String, String)> {
    let mount = mountinfo::at(place).unwrap()?;
    Some((mount.kind, mount.source.into_string().unwrap()))
}

/// The FUSE connection behind the mount at a place.
fn connection(place: &Path) -> u32 {
    let (kind, source) = mounted_at(place).unwrap();
    assert_eq!(kind, "erofs");
    let (source, connection) = source.rsplit_once('~').unwrap();
    assert_eq!(source, "nacre:test/image:1");
    connection.parse().unwrap()
}

/// Connections of this process.
fn connections() -> Vec<u32> {
    processes::server(std::process::id()).map_or_else(Vec::new, |it| it.connections)
}

/// Waits for what the kernel or another thread does in the background.
fn eventually(happens: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !happens() {
        assert!(Instant::now() < end, "it does not happen");
        std::thread::yield_now();
    }
}

// === mounting ===

#[test]
fn a_mount_shows_the_tree_and_leaves_nothing() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let images = base.path().join("images");
    fs::create_dir(&images).unwrap();
    let image = odd_image();
    let (tree, _) = image.build();
    let mounted = mount_in(&image, FrontEnd::Erofs, &images, &place).unwrap();
    assert_eq!(mounted.front_end(), FrontEnd::Erofs);
    let connection = connection(&place);
    assert!(connections().contains(&connection));
    assert_same(&place, &tree, Shown::BY_EROFS);
    let large = fs::read(place.join("large")).unwrap();
    let expected: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    assert!(large == expected);
    // The image has no name, and the file system of devices no place.
    assert_eq!(fs::read_dir(&images).unwrap().count(), 0);
    let mounts = mountinfo::read().unwrap();
    assert!(
        !mounts
            .iter()
            .any(|it| it.source == "nacre-devices" && it.device.1 == connection)
    );
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
    assert_eq!(mounted_at(&place), None);
    eventually(|| !connections().contains(&connection));
}

#[test]
fn the_kernel_reads_ahead_as_far_as_it_is_told() {
    if !can_mount_erofs() {
        return;
    }
    const PAGES: u64 = 64;
    let asked = |read_ahead_kib| {
        let (base, place) = place();
        let mut image = Image::new();
        image.file("file", vec![b'x'; 4096 * 64]);
        let (tree, reader) = image.build();
        let images = [base.path().to_owned()];
        let mut options = MountOptions::new("test/image:1");
        options.read_ahead_kib = read_ahead_kib;
        let counting = Arc::clone(&reader) as Arc<dyn ReadFile>;
        let _mounted =
            mount_by(FrontEnd::Erofs, tree, counting, &place, &images, &options).unwrap();
        let file = File::open(place.join("file")).unwrap();
        for page in 0..PAGES {
            file.read_exact_at(&mut [0; 4096], page * 4096).unwrap();
        }
        *reader.reads.lock().unwrap()
    };
    assert!(asked(None) < PAGES / 4);
    assert_eq!(asked(Some(4)), PAGES, "a page at a time");
}

#[test]
fn holes_are_not_asked_for() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mut image = Image::new();
    let end = vec![((1 << 40) - 3, "end".into())];
    image.sparse("sparse", 1 << 40, end);
    let (tree, reader) = image.build();
    let images = [base.path().to_owned()];
    let options = MountOptions::new("test/image:1");
    let counting = Arc::clone(&reader) as Arc<dyn ReadFile>;
    let _mounted = mount_by(FrontEnd::Erofs, tree, counting, &place, &images, &options).unwrap();
    let file = File::open(place.join("sparse")).unwrap();
    let mut bytes = vec![9; 1 << 20];
    file.read_exact_at(&mut bytes, 1 << 39).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert_eq!(*reader.reads.lock().unwrap(), 0);
    file.read_exact_at(&mut bytes[..5], (1 << 40) - 5).unwrap();
    assert_eq!(&bytes[..5], b"\0\0end");
    assert_eq!(*reader.reads.lock().unwrap(), 1);
}

#[test]
fn options_of_the_mount_are_kept() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    for allowed in [true, false] {
        let (tree, reader) = odd_image().build();
        let mut options = MountOptions::new("test/image:1");
        options.suid = allowed;
        options.devices = allowed;
        let images = [base.path().to_owned()];
        let mounted = mount_by(FrontEnd::Erofs, tree, reader, &place, &images, &options);
        let _mounted = mounted.unwrap();
        let flags = nix::sys::statvfs::statvfs(&place).unwrap().flags();
        let has = |flag| flags.contains(flag);
        assert!(has(nix::sys::statvfs::FsFlags::ST_RDONLY));
        assert_eq!(has(nix::sys::statvfs::FsFlags::ST_NOSUID), !allowed);
        assert_eq!(File::open(place.join("null")).is_ok(), allowed);
    }
}

#[test]
fn what_erofs_cannot_do_is_done_by_fuse_if_that_is_allowed() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mut strange = image();
    strange.file("strange", "x").xattrs = vec![(b"system.nfs4_acl"[..].into(), b"v"[..].into())];
    let error = mount_in(&strange, FrontEnd::Erofs, base.path(), &place).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains("\"strange\""), "{error}");
    assert_eq!(mounted_at(&place), None);
    let mounted = mount_in(&strange, FrontEnd::Auto, base.path(), &place).unwrap();
    assert_eq!(mounted.front_end(), FrontEnd::Fuse);
    assert_eq!(fs::read(place.join("strange")).unwrap(), b"x");
    drop(mounted);

    // Only for the one who mounts: EROFS knows no such thing.
    let (tree, reader) = image().build();
    let mut options = MountOptions::new("test/image:1");
    options.allow_other = false;
    let images = [base.path().to_owned()];
    let mounted = mount_by(FrontEnd::Auto, tree, reader, &place, &images, &options).unwrap();
    assert_eq!(mounted.front_end(), FrontEnd::Fuse);
}

#[test]
fn what_auto_mounts_carries_two_overlays() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mut image = image();
    for directory in ["a/c", "b/d"] {
        image.file(format!("{directory}/file"), directory);
    }
    let mounted = mount_in(&image, FrontEnd::Auto, base.path(), &place).unwrap();
    println!("by {}", mounted.front_end());
    let overlay = |name: &str, lower: &Path, names: [&str; 2]| {
        let over = base.path().join(name);
        fs::create_dir(&over).unwrap();
        let lowers = names.map(|it| lower.join(it).display().to_string());
        let options = format!("lowerdir={}", lowers.join(":"));
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("none"), &over, Some("overlay"), flags, Some(&*options)).unwrap();
        over
    };
    let first = overlay("first", &place, ["a", "b"]);
    let second = overlay("second", &first, ["c", "d"]);
    assert_eq!(fs::read(second.join("file")).unwrap(), b"a/c");
    nix::mount::umount(&second).unwrap();
    nix::mount::umount(&first).unwrap();
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
}

#[test]
fn nowhere_to_put_the_image() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let missing = base.path().join("missing");
    let error = mount_in(&image(), FrontEnd::Erofs, &missing, &place).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let mounted = mount_in(&image(), FrontEnd::Auto, &missing, &place).unwrap();
    assert_eq!(mounted.front_end(), FrontEnd::Fuse);
}

#[test]
fn an_image_in_memory_is_mounted_through_loop_devices() {
    if !can_mount_erofs() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("skipped: no loop devices here");
        return;
    }
    let (base, place) = place();
    let images = base.path().join("memory");
    fs::create_dir(&images).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("memory"), &images, Some("tmpfs"), flags, None::<&str>).unwrap();
    let image = odd_image();
    let (tree, _) = image.build();
    // The kernel does not read images from memory, but block devices wherever their bytes are.
    let mounted = mount_in(&image, FrontEnd::Erofs, &images, &place);
    nix::mount::umount2(&images, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let mounted = mounted.unwrap();
    let (major, minor) = mountinfo::at(&place).unwrap().unwrap().device;
    assert_eq!(major, 7, "a loop device");
    let connection = connection(&place);
    assert_same(&place, &tree, Shown::BY_EROFS);
    assert_eq!(fs::read(place.join("large")).unwrap().len(), 12_000_000);
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
    eventually(|| !connections().contains(&connection));
    let backing = format!("/sys/block/loop{minor}/loop/backing_file");
    let left = fs::read_to_string(backing).unwrap_or_default();
    assert!(!left.contains(images.to_str().unwrap()), "{left}");
}

#[test]
fn a_place_that_is_taken_is_refused() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mounted = mount_in(&image(), FrontEnd::Erofs, base.path(), &place).unwrap();
    for front_end in [FrontEnd::Erofs, FrontEnd::Auto, FrontEnd::Fuse] {
        let error = mount_in(&image(), front_end, base.path(), &place).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy, "{error}");
    }
    drop(mounted);
    assert_eq!(mounted_at(&place), None);
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    // In a process of its own, whose connections are those of the attempt.
    let mut command = helper(&place);
    let output = command.env("NACRE_TEST_STRANGE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(mounted_at(&place), None);
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
}

#[test]
fn nothing_is_held_after_the_unmount() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let (tree, reader) = image().build();
    let options = MountOptions::new("test/image:1");
    let images = [base.path().to_owned()];
    let (its_tree, its_reader) = (Arc::clone(&tree), reader.clone());
    let mounted = mount_by(
        FrontEnd::Erofs,
        its_tree,
        its_reader,
        &place,
        &images,
        &options,
    );
    let mounted = mounted.unwrap();
    assert_eq!(fs::read(place.join("d/file")).unwrap().len(), 50_000);
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
    // A device ends in a thread of its own.
    eventually(|| (Arc::strong_count(&tree), Arc::strong_count(&reader)) == (1, 1));
}

#[test]
fn unmounting_while_in_use_detaches() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mounted = mount_in(&image(), FrontEnd::Erofs, base.path(), &place).unwrap();
    let mut open = File::open(place.join("d/file")).unwrap();
    assert_eq!(mounted.unmount().unwrap(), Unmounted::StillUsed);
    assert_eq!(mounted_at(&place), None);
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![b'x'; 50_000]);
}

// === many images on one file system of devices ===

#[test]
fn images_share_a_file_system_of_devices() {
    if !can_mount_erofs() {
        return;
    }
    let (base, first_place) = place();
    let second_place = base.path().join("second");
    let devices = base.path().join("devices");
    fs::create_dir(&second_place).unwrap();
    fs::create_dir(&devices).unwrap();
    let options = MountOptions::new("test/image:1");
    let erofs = Erofs::start(
        Some(&devices),
        &[base.path().to_owned()],
        Overlays::One,
        &options,
    )
    .unwrap();
    let mount = |name: &str, place: &Path, byte: u8| {
        let mut image = Image::new();
        image.file("file", vec![byte; 50_000]);
        let (tree, reader) = image.build();
        erofs.mount(tree, reader, place, name, &options)
    };
    let names = || {
        let read = fs::read_dir(&devices).unwrap();
        let mut names: Vec<_> = read.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let first = mount("one-0", &first_place, 1).unwrap();
    let second = mount("two-0", &second_place, 2).unwrap();
    assert_eq!(connection(&first_place), connection(&second_place));
    assert_eq!(names(), ["one-0", "two-0"]);
    assert_eq!(
        fs::metadata(devices.join("one-0")).unwrap().len(),
        13 * 4096
    );
    let busy = mount("one-0", &second_place, 3).unwrap_err();
    assert_eq!(busy.kind(), Kind::Busy, "{busy}");
    assert!(first.is_alive() && second.is_alive());
    assert_eq!(fs::read(first_place.join("file")).unwrap(), [1; 50_000]);

    // Out of sight, but still used: read on.
    let open = File::open(first_place.join("file")).unwrap();
    let busy = File::open(second_place.join("file")).unwrap();
    drop(first);
    assert_eq!(mounted_at(&first_place), None);
    assert_eq!(names(), ["two-0"]);
    let mut last = [0; 10];
    nix::fcntl::posix_fadvise(
        &open,
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )
    .unwrap();
    open.read_exact_at(&mut last, 49_990).unwrap();
    assert_eq!(last, [1; 10]);
    assert_eq!(fs::read(second_place.join("file")).unwrap(), [2; 50_000]);

    // The same again, while the first is still used; and something else, once it is not.
    let again = mount("one-0", &first_place, 4).unwrap();
    assert_eq!(fs::read(first_place.join("file")).unwrap(), [4; 50_000]);
    drop(again);
    let other = || {
        let mut image = Image::new();
        image.file("file", vec![5; 60_000]);
        let (tree, reader) = image.build();
        erofs.mount(tree, reader, &first_place, "one-0", &options)
    };
    assert_eq!(other().unwrap_err().kind(), Kind::Busy);
    drop(open);
    let again = std::cell::Cell::new(None);
    eventually(|| other().map(|other| again.set(Some(other))).is_ok());
    assert_eq!(fs::read(first_place.join("file")).unwrap(), [5; 60_000]);
    drop((busy, again, second, erofs));
    for place in [&first_place, &second_place, &devices] {
        assert_eq!(mounted_at(place), None);
    }
}

// === processes ===

/// Not a test: what [`spawn`] runs. The harness makes it a test because it is the program that is at
/// hand.
#[test]
fn helper_process() {
    let Some(place) = std::env::var_os("NACRE_TEST_PLACE").map(PathBuf::from) else {
        return;
    };
    if std::env::var_os("NACRE_TEST_NODE").is_some() {
        let _mounted = mount_on_node(&place, 1).unwrap();
        eprintln!("mounted");
        let mut byte = [0];
        // Until it is killed.
        _ = std::io::stdin().read(&mut byte);
        return;
    }
    if std::env::var_os("NACRE_TEST_STRANGE").is_some() {
        let mut strange = image();
        strange.file("x", "x").xattrs = vec![(b"no.such"[..].into(), b"v"[..].into())];
        let images = place.parent().unwrap();
        mount_in(&strange, FrontEnd::Erofs, images, &place).unwrap_err();
        mount_in(&image(), FrontEnd::Erofs, &images.join("none"), &place).unwrap_err();
        eventually(|| connections().is_empty());
        std::process::exit(0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let signals = StopSignals::catch()?;
        let images = place.parent().unwrap();
        let mounted = mount_in(&image(), FrontEnd::Erofs, images, &place)?;
        eprintln!("mounted");
        mounted.serve(signals).await
    });
    if let Err(error) = &ended {
        eprintln!("{error}");
    }
    let code = match ended {
        Ok(Unmounted::Clean) => 0,
        Ok(Unmounted::StillUsed) => 50,
        Err(error) => i32::from(error.kind().exit_code()),
    };
    std::process::exit(code);
}

fn helper(place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let arguments = [
        "--exact",
        "helper_process",
        "--nocapture",
        "--test-threads=1",
    ];
    command.args(arguments).env("NACRE_TEST_PLACE", place);
    command
}

/// Mounts as a snapshotter does whose root is the parent of `place`.
fn mount_on_node(
    place: &Path,
    byte: u8,
) -> nacre::Result<(images::FrontEnds, Box<dyn images::Mount>)> {
    let root = place.parent().unwrap().to_owned();
    let node = images::FrontEnds::new(FrontEnd::Erofs, root, MountOptions::new(""));
    let mut image = Image::new();
    image.file("file", vec![byte; 50_000]);
    let (tree, reader) = image.build();
    let mounted = node.mount(tree, reader, place, "test/image:1")?;
    Ok((node, mounted))
}

/// A process that serves a mount, once it is mounted.
fn spawn(place: &Path) -> Child {
    spawn_command(helper(place))
}

fn spawn_command(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut text = Vec::new();
    let messages = child.stderr.as_mut().unwrap();
    while !text.ends_with(b"mounted\n") {
        let mut byte = [0];
        let read = messages.read_exact(&mut byte);
        read.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&text)));
        text.push(byte[0]);
    }
    child
}

fn signal(child: &Child, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn stop_signals_unmount_and_end_the_process() {
    if !can_mount_erofs() {
        return;
    }
    for sent in [Signal::SIGTERM, Signal::SIGINT] {
        let (base, place) = place();
        let mut child = spawn(&place);
        assert!(mounted_at(&place).is_some());
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{sent}");
        assert_eq!(mounted_at(&place), None);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}

#[test]
fn unmounting_from_outside_ends_the_process() {
    if !can_mount_erofs() {
        return;
    }
    let (_base, place) = place();
    let mut child = spawn(&place);
    nix::mount::umount(&place).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn umount_waits_for_the_process() {
    if !can_mount_erofs() {
        return;
    }
    let (_base, place) = place();
    let mut child = spawn(&place);
    assert_eq!(fs::read(place.join("d/file")).unwrap().len(), 50_000);
    let server = processes::server_of(connection(&place), &place);
    assert_eq!(server.map(|it| it.pid), Some(child.id()));
    umount(&place, WAIT).unwrap();
    assert_eq!(mounted_at(&place), None);
    assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(0));
}

#[test]
fn a_killed_process_leaves_a_mount_that_umount_takes_away() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let mut child = spawn(&place);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    // Names are the kernel's and stay; data that it does not have fails.
    assert_eq!(fs::metadata(place.join("d/file")).unwrap().len(), 50_000);
    let dead = fs::read(place.join("d/file")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(nix::libc::EIO));
    let error = mount_in(&image(), FrontEnd::Erofs, base.path(), &place).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    umount(&place, WAIT).unwrap();
    assert_eq!(mounted_at(&place), None);
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    drop(mount_in(&image(), FrontEnd::Erofs, base.path(), &place).unwrap());
}

/// Keeps descriptors in this process.
#[derive(Debug, Default)]
struct InMemory(Mutex<HashMap<String, OwnedFd>>);

impl Keeper for InMemory {
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> nacre::Result<()> {
        let copy = descriptor.try_clone_to_owned().unwrap();
        self.0.lock().unwrap().insert(name.to_owned(), copy);
        Ok(())
    }

    fn remove(&self, name: &str) -> nacre::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

#[test]
fn what_is_kept_stays_when_it_is_dropped_and_goes_when_nothing_hangs_on_it() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let devices = base.path().join("devices");
    let keeper = Arc::<InMemory>::default();
    let names = || -> Vec<String> { keeper.0.lock().unwrap().keys().cloned().collect() };
    let node = || {
        let (root, options) = (base.path().to_owned(), MountOptions::new(""));
        let keeper = Arc::clone(&keeper) as Arc<dyn Keeper>;
        images::FrontEnds::handing_over(FrontEnd::Erofs, root, options, Some(keeper), Vec::new())
    };
    let mount = |node: &images::FrontEnds| {
        let (tree, reader) = image().build();
        node.mount(tree, reader, &place, "test/image:1").unwrap()
    };
    let first = node();
    mount(&first).take_away().unwrap();
    assert_eq!(mounted_at(&place), None);
    assert!(mounted_at(&devices).is_some() && names().len() == 1);
    drop(first);
    assert_eq!(mounted_at(&devices), None);
    eventually(|| names().is_empty());

    let second = node();
    drop(mount(&second));
    drop(second);
    assert!(mounted_at(&place).is_some() && mounted_at(&devices).is_some());
    let name = names().pop().unwrap();
    assert!(
        name.contains(&format!(".devices.{}.", connection(&place))),
        "{name}"
    );
    // The threads of this process are those that would be another's.
    assert_eq!(fs::read(place.join("d/file")).unwrap().len(), 50_000);

    // Whoever does not get the descriptor takes both away.
    let third = node();
    assert!(third.adopt(&place, "test/image:1").is_none());
    third.forget_others();
    assert_eq!(mounted_at(&devices), None);
    third.clear(&place).unwrap();
    assert_eq!(mounted_at(&place), None);
    eventually(|| names().is_empty());
}

#[test]
fn a_node_replaces_what_a_killed_process_left() {
    if !can_mount_erofs() {
        return;
    }
    let (base, place) = place();
    let devices = base.path().join("devices");
    let mut command = helper(&place);
    command.env("NACRE_TEST_NODE", "1").stdin(Stdio::piped());
    let mut child = spawn_command(command);
    assert_eq!(fs::read(place.join("file")).unwrap(), [1; 50_000]);
    assert!(mounted_at(&devices).is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(mounted_at(&place).is_some() && mounted_at(&devices).is_some());
    assert!(fs::metadata(devices.join("x")).is_err());
    let (node, mounted) = mount_on_node(&place, 2).unwrap();
    assert_eq!(fs::read(place.join("file")).unwrap(), [2; 50_000]);
    assert!(mounted.is_alive());
    assert_eq!(fs::read_dir(&devices).unwrap().count(), 1);

    // Somebody takes the devices away: that is noticed, and the next mount begins anew.
    let connection = connection(&place);
    let abort = format!("/sys/fs/fuse/connections/{connection}/abort");
    if fs::write(&abort, "1").is_err() {
        println!("skipped: no {abort}");
        return;
    }
    eventually(|| !mounted.is_alive());
    drop(mounted);
    let mut image = Image::new();
    image.file("file", vec![3; 50_000]);
    let (tree, reader) = image.build();
    let again = node.mount(tree, reader, &place, "test/image:1").unwrap();
    assert_eq!(fs::read(place.join("file")).unwrap(), [3; 50_000]);
    drop((again, node));
    assert_eq!((mounted_at(&place), mounted_at(&devices)), (None, None));
}
