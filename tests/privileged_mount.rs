//! Life of a mount: made, refused, taken away, and what is left when its process dies. Needs root;
//! says so when it skips.

// Clippy knows only functions marked as tests, not those that they call.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nacre::mount::daemon::{Readiness, Starting};
use nacre::mount::{MountOptions, StopSignals, UmountOptions, Unmounted, mount, umount};
use nacre::sys::{mountinfo, processes};
use nacre::{Error, Kind};

mod fixture;

use fixture::{Image, can_mount, place};

const WAIT: UmountOptions = UmountOptions {
    lazy: false,
    timeout: Duration::from_secs(10),
};

/// Arguments that make this program run only [`helper_process`].
const HELPER: [&str; 4] = [
    "--exact",
    "helper_process",
    "--nocapture",
    "--test-threads=1",
];
const NOBODY: u32 = 65_534;

fn image() -> Image {
    let mut image = Image::new();
    image.file("d/file", vec![b'x'; 50_000]);
    image
}

fn mounted_at(place: &Path) -> Option<String> {
    mountinfo::at(place).unwrap().map(|mount| mount.kind)
}

// === processes that mount ===

/// Not a test: what [`spawn`] and [`start_daemon`] run. The harness makes it a test because it is
/// the program that is at hand.
#[test]
fn helper_process() {
    let Some(place) = std::env::var_os("NACRE_TEST_PLACE").map(PathBuf::from) else {
        return;
    };
    let daemon = std::env::var_os("NACRE_TEST_DAEMON").is_some();
    let log = std::env::var_os("NACRE_TEST_LOG").map(PathBuf::from);
    let readiness = daemon.then(|| Readiness::take(log.as_deref()).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let signals = StopSignals::catch()?;
        let mut options = MountOptions::new("test/image:1");
        if let Some(files) = std::env::var_os("NACRE_TEST_FILES") {
            let files = files.to_str().unwrap().parse().unwrap();
            let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
            nix::sys::resource::setrlimit(limit, files, files).unwrap();
            options.threads = Some(1000);
        }
        let (tree, reader) = image().build();
        let mounted = match mount(tree, reader, &place, &options) {
            Ok(mounted) => mounted,
            Err(error) => {
                if let Some(readiness) = readiness {
                    readiness.failed(&error)?;
                }
                return Err(error);
            }
        };
        match readiness {
            Some(readiness) => {
                readiness.ready()?;
                eprintln!("to the log");
            }
            None => eprintln!("mounted"),
        }
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
    command.args(HELPER).env("NACRE_TEST_PLACE", place);
    command
}

/// A process that serves a mount in the foreground, once it is mounted.
fn spawn(place: &Path) -> Child {
    wait_mounted(helper(place))
}

fn wait_mounted(mut command: Command) -> Child {
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

fn start_daemon(place: &Path, log: Option<&Path>) -> nacre::Result<u32> {
    let mut command = helper(place);
    command.env("NACRE_TEST_DAEMON", "1").stderr(Stdio::null());
    if let Some(log) = log {
        command.env("NACRE_TEST_LOG", log);
    }
    Starting::spawn_command(command)?.wait_ready()
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

fn ended(pid: u32) -> bool {
    processes::Watched::new(pid).is_none_or(|it| it.wait(Duration::from_secs(10)).unwrap())
}

// === mounting ===

#[test]
fn dropping_unmounts() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let mounted = image().mount(&place).unwrap();
    let entry = mountinfo::at(&place).unwrap().unwrap();
    assert_eq!(
        (entry.kind.as_str(), entry.source.to_str()),
        ("fuse.nacre", Some("nacre:test/image:1"))
    );
    drop(mounted);
    assert_eq!(mounted_at(&place), None);
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_refused() {
    if !can_mount() {
        return;
    }
    let (base, place) = place();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    let error = image().mount(&file).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(
        image().mount(&base.path().join("none")).unwrap_err().kind(),
        Kind::NotFound
    );
    let link = base.path().join("link");
    std::os::unix::fs::symlink(&place, &link).unwrap();
    let mounted = image().mount(&link).unwrap();
    assert_eq!(mounted.directory(), place.canonicalize().unwrap());
    for again in [&place, &link] {
        let error = image().mount(again).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy, "{error}");
        assert!(
            error.hint().unwrap().starts_with("nacre umount "),
            "{error}"
        );
    }
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
}

#[test]
fn failing_to_start_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    // More threads than open files are allowed: the session dies when it starts.
    let output = helper(&place)
        .env("NACRE_TEST_FILES", "40")
        .output()
        .unwrap();
    let exit_code = i32::from(Kind::Io.exit_code());
    assert_eq!(output.status.code(), Some(exit_code), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("does not answer"), "{text}");
    assert_eq!(mounted_at(&place), None);
}

#[test]
fn another_user_than_root_mounts_through_the_helper() {
    if !can_mount() {
        return;
    }
    let (base, place) = place();
    let program = base.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [base.path(), &place] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let device = fs::metadata("/dev/fuse").unwrap();
    let open = std::os::unix::fs::PermissionsExt::mode(&device.permissions()) & 0o6 == 0o6;
    if !open || Command::new("fusermount3").arg("-V").output().is_err() {
        println!("skipped: no fusermount3, or /dev/fuse is for root only");
        return;
    }
    let mut command = Command::new(&program);
    command.args(HELPER).env("NACRE_TEST_PLACE", &place);
    std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
    let mut child = wait_mounted(command);
    let mount = mountinfo::at(&place).unwrap().unwrap();
    assert_eq!(
        (mount.kind.as_str(), mount.source.to_str()),
        ("fuse.nacre", Some("nacre:test/image:1"))
    );
    signal(&child, nix::sys::signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(mounted_at(&place), None);
}

#[test]
fn others_look_in_only_if_they_are_allowed() {
    if !can_mount() {
        return;
    }
    for allowed in [true, false] {
        let (base, place) = place();
        std::os::unix::fs::chown(base.path(), Some(NOBODY), None).unwrap();
        let (tree, reader) = image().build();
        let mut options = MountOptions::new("x");
        options.allow_other = allowed;
        let _mounted = mount(tree, reader, &place, &options).unwrap();
        let file = place.join("d/file");
        assert_eq!(fs::read(&file).unwrap().len(), 50_000);
        let mut cat = Command::new("cat");
        std::os::unix::process::CommandExt::uid(&mut cat, NOBODY);
        let status = cat.arg(&file).output().unwrap().status;
        assert_eq!(status.success(), allowed);
    }
}

#[test]
fn read_ahead_is_set() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let (tree, reader) = image().build();
    let mut options = MountOptions::new("x");
    options.read_ahead_kib = Some(512);
    let _mounted = mount(tree, reader, &place, &options).unwrap();
    let (major, minor) = mountinfo::at(&place).unwrap().unwrap().device;
    let set = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    match set {
        Ok(set) => assert_eq!(set.trim(), "512"),
        Err(error) => println!("skipped: no bdi in sysfs: {error}"),
    }
}

#[test]
fn nothing_is_held_after_the_unmount() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let (tree, reader) = image().build();
    let options = MountOptions::new("x");
    let mounted = mount(Arc::clone(&tree), reader.clone(), &place, &options).unwrap();
    assert_eq!(fs::read(place.join("d/file")).unwrap().len(), 50_000);
    assert_eq!(mounted.unmount().unwrap(), Unmounted::Clean);
    assert_eq!(
        (Arc::strong_count(&tree), Arc::strong_count(&reader)),
        (1, 1)
    );
}

#[test]
fn unmounting_while_in_use_detaches() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let mounted = image().mount(&place).unwrap();
    let mut open = File::open(place.join("d/file")).unwrap();
    assert_eq!(mounted.unmount().unwrap(), Unmounted::StillUsed);
    assert_eq!(mounted_at(&place), None);
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![b'x'; 50_000]);
}

// === processes ===

#[test]
fn stop_signals_unmount_and_end_the_process() {
    if !can_mount() {
        return;
    }
    for sent in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
        let (_base, place) = place();
        let mut child = spawn(&place);
        assert_eq!(mounted_at(&place).as_deref(), Some("fuse.nacre"));
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{sent}");
        assert_eq!(mounted_at(&place), None);
    }
}

#[test]
fn unmounting_from_outside_ends_the_process() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let mut child = spawn(&place);
    nix::mount::umount(&place).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn umount_waits_for_the_daemon() {
    if !can_mount() {
        return;
    }
    let (base, place) = place();
    let log = base.path().join("log");
    let pid = start_daemon(&place, Some(&log)).unwrap();
    assert_eq!(fs::read(place.join("d/file")).unwrap().len(), 50_000);
    let (_, minor) = mountinfo::at(&place).unwrap().unwrap().device;
    assert_eq!(
        processes::server_of(minor, &place).map(|it| it.pid),
        Some(pid)
    );
    umount(&place, WAIT).unwrap();
    assert_eq!(mounted_at(&place), None);
    assert!(ended(pid));
    assert!(fs::read_to_string(&log).unwrap().contains("to the log"));
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    if !can_mount() {
        return;
    }
    let (base, _place) = place();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    let error = start_daemon(&file, None).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("is not a directory"), "{error}");
    let mut silent = Command::new("sh");
    silent.args(["-c", "echo no message; exit 3"]);
    let error = Starting::spawn_command(silent)
        .unwrap()
        .wait_ready()
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    let missing = Starting::spawn_command(Command::new("/nonexistent"));
    assert_eq!(missing.unwrap_err().kind(), Kind::Io);
}

#[test]
fn a_killed_process_leaves_a_mount_that_umount_takes_away() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let mut child = spawn(&place);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let dead = fs::metadata(place.join("not/cached")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(nix::libc::ENOTCONN));
    let error = image().mount(&place).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    umount(&place, WAIT).unwrap();
    assert_eq!(mounted_at(&place), None);
    drop(image().mount(&place).unwrap());
}

#[test]
fn umount_names_who_is_in_the_way() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let pid = start_daemon(&place, None).unwrap();
    let mut sitting = Command::new("sh");
    sitting
        .args(["-c", "echo; read wait"])
        .current_dir(place.join("d"));
    let mut user = sitting
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    user.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let error: Error = umount(&place, WAIT).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("sh (process {}, cwd)", user.id())),
        "{text}"
    );
    assert_eq!(mounted_at(&place).as_deref(), Some("fuse.nacre"));
    let lazily = UmountOptions { lazy: true, ..WAIT };
    umount(&place, lazily).unwrap();
    assert_eq!(mounted_at(&place), None);
    drop(user.stdin.take());
    user.wait().unwrap();
    assert!(ended(pid));
}

#[test]
fn umount_names_the_overlay_that_keeps_a_daemon_alive() {
    if !can_mount() {
        return;
    }
    let (base, place) = place();
    let pid = start_daemon(&place, None).unwrap();
    let merged = base.path().join("merged");
    let other = base.path().join("other");
    fs::create_dir(&merged).unwrap();
    fs::create_dir(&other).unwrap();
    let options = format!("lowerdir={}:{}", other.display(), place.display());
    let flags = nix::mount::MsFlags::MS_RDONLY;
    nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        flags,
        Some(&*options),
    )
    .unwrap();
    let soon = UmountOptions {
        timeout: Duration::from_millis(100),
        ..WAIT
    };
    let error = umount(&place, soon).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {pid} still serves it")),
        "{text}"
    );
    assert!(
        text.contains(&format!("overlay at {}", merged.display())),
        "{text}"
    );
    assert_eq!(fs::read(merged.join("d/file")).unwrap().len(), 50_000);
    nix::mount::umount(&merged).unwrap();
    assert!(ended(pid));
}

#[test]
fn umount_refuses_what_is_not_nacre_s() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    assert_eq!(umount(&place, WAIT).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(
        umount(&place.join("none/x"), WAIT).unwrap_err().kind(),
        Kind::NotFound
    );
    let error = umount(Path::new("/proc"), WAIT).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("mount of proc"), "{error}");
}

#[test]
fn a_mount_made_over_ours_is_not_taken_away() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let mounted = image().mount(&place).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("over"), &place, Some("tmpfs"), flags, None::<&str>).unwrap();
    assert_eq!(mounted.unmount().unwrap_err().kind(), Kind::Busy);
    assert_eq!(mounted_at(&place).as_deref(), Some("tmpfs"));
    nix::mount::umount(&place).unwrap();
    umount(&place, WAIT).unwrap();
    assert_eq!(mounted_at(&place), None);
}

#[test]
fn daemon_arguments_are_passed_on() {
    // `false` as this program's stand-in would be another program: only that spawning works.
    let arguments: Vec<OsString> = vec!["--list".into()];
    let error = Starting::spawn(arguments)
        .unwrap()
        .wait_ready()
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    assert!(error.to_string().contains("exit status: 0"), "{error}");
}
