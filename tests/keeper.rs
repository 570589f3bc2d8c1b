//! The keeper process of the real program: started, reached again, killed, ended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    io::{self, PipeReader, Read as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nacre::{
    keeper::{Keeper as _, KeeperProcess},
    sys::processes::Watched,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_nacre");
const PATIENCE: Duration = Duration::from_secs(30);

fn reach(root: &Path) -> KeeperProcess {
    KeeperProcess::reach(root, PROGRAM.as_ref())
}

fn names(keeper: &KeeperProcess) -> Vec<String> {
    let kept = keeper.list().unwrap();
    kept.into_iter().map(|it| it.name).collect()
}

/// Keeps one end of a pipe and gives the other.
fn put(keeper: &KeeperProcess, name: &str) -> PipeReader {
    let (reader, writer) = io::pipe().unwrap();
    keeper.put(name, writer.as_fd()).unwrap();
    reader
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// A look that is repeated until it finds something.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "nothing came of it");
        std::thread::yield_now();
    }
}

#[test]
fn it_outlives_its_clients_and_ends_with_its_last_descriptor() {
    let directory = tempfile::tempdir().unwrap();
    // Longer than the address of a socket may be.
    let root = directory.path().join("long".repeat(40));
    fs::create_dir(&root).unwrap();
    let first = reach(&root);
    assert_eq!(first.pid(), None, "nothing to keep, nobody to keep it");
    let mut a = put(&first, "a");
    let pid = first.pid().unwrap();
    let process = Watched::new(pid).unwrap();
    let socket = fs::symlink_metadata(root.join("keeper.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find(|it| it.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    println!(
        "keeper: {} KiB resident, {} of its own",
        field("VmRSS:"),
        field("RssAnon:")
    );
    assert_eq!(field("Threads:"), "1");
    assert!(field("RssAnon:").parse::<u32>().unwrap() < 4096);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // Standard ones, connection, listener, lock, directory, descriptor.
    assert!(open <= 8, "{open} descriptors");
    drop(first);

    let second = reach(&root);
    assert_eq!(second.pid(), Some(pid));
    assert_eq!(names(&second), ["a"]);
    let b = put(&second, "b");
    let third = reach(&root);
    assert_eq!(names(&third), ["a", "b"]);
    drop(third);
    second.remove("a").unwrap();
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
    drop(second);
    assert!(!process.wait(Duration::ZERO).unwrap());
    // As a mount that goes away while no daemon is there.
    drop(b);
    assert!(process.wait(PATIENCE).unwrap());
    assert!(!root.join("keeper.sock").exists());
    assert_eq!(reach(&root).pid(), None);
}

#[test]
fn another_one_is_started_in_place_of_one_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let keeper = reach(root);
    let _readers = [put(&keeper, "a"), put(&keeper, "b")];
    for _ in 0..3 {
        let pid = keeper.pid().unwrap();
        signal(pid, Signal::SIGKILL);
        let next = until(|| keeper.pid().filter(|&it| it != pid));
        assert_eq!(names(&reach(root)), ["a", "b"], "{pid} {next}");
    }
    // Killed and noticed by the next request.
    signal(keeper.pid().unwrap(), Signal::SIGKILL);
    let _reader = put(&keeper, "c");
    assert_eq!(names(&reach(root)), ["a", "b", "c"]);
    assert_eq!(keeper.release(true).unwrap(), 0);
    assert!(!root.join("keeper.sock").exists());
}

#[test]
fn it_does_not_start_where_others_may_write_or_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
    let (_reader, writer) = io::pipe().unwrap();
    let error = reach(root).put("a", writer.as_fd()).unwrap_err();
    assert!(error.to_string().contains("others"), "{error}");
    assert!(!root.join("keeper.sock").exists());

    let ran = Command::new(PROGRAM)
        .args(["keeper", "--root"])
        .arg(root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("not a socket"), "{said}");
    assert!(!ran.status.success());
}
