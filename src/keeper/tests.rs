//! The keeper as its clients meet it, good ones and others; and what is chosen where.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    thread::JoinHandle,
    time::Duration,
};

use super::{
    protocol::{Answer, MAX_PACKET, Request, VERSION},
    server::Server,
    *,
};
use crate::{Kind, sys::descriptors};

/// A keeper in a thread, with one client.
fn keeper() -> (OwnedFd, JoinHandle<io::Result<()>>) {
    let (ours, theirs) = descriptors::packet_pair().unwrap();
    let mut server = Server {
        listener: None,
        clients: vec![theirs],
        kept: BTreeMap::new(),
    };
    (ours, std::thread::spawn(move || server.serve()))
}

fn say(to: &OwnedFd, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> (Answer, Vec<OwnedFd>) {
    descriptors::send(to, packet, descriptor, true).unwrap();
    let mut buffer = [0; MAX_PACKET];
    let received = descriptors::receive(to, &mut buffer, true).unwrap();
    let answer = Answer::parse(&buffer[..received.length]).unwrap();
    (answer, received.descriptors)
}

fn is_error(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(_))
}

#[test]
fn the_packets_of_version_1_stay_as_they_are() {
    let requests = [
        (Request::Version, &b"V"[..]),
        (Request::Put("a.b"), b"Pa.b"),
        (Request::Remove("a"), b"Ra"),
        (Request::Next(""), b"N"),
        (Request::Next("z"), b"Nz"),
    ];
    for (request, packet) in requests {
        assert_eq!(request.encode(), packet);
        assert_eq!(Request::parse(packet), Ok(request));
    }
    let answers = [
        (Answer::Version(1), &b"v\x01\0\0\0"[..]),
        (Answer::Done, b"k"),
        (Answer::Nothing, b"n"),
        (Answer::Descriptor("x".into()), b"dx"),
        (Answer::Error("why".into()), b"ewhy"),
    ];
    for (answer, packet) in answers {
        assert_eq!(answer.encode(), packet);
        assert_eq!(Answer::parse(packet), Some(answer));
    }
    // What a later version may add.
    assert_eq!(Answer::parse(b"v\x02\0\0\0more"), Some(Answer::Version(2)));
    assert_eq!(Answer::parse(b"kmore"), Some(Answer::Done));
    for nobody_knows in [&b""[..], b"v\0", b"d\xff", b"?"] {
        assert_eq!(Answer::parse(nobody_knows), None);
    }
}

#[test]
fn descriptors_come_back_by_name_in_order() {
    let (client, ended) = keeper();
    assert_eq!(say(&client, b"V", None).0, Answer::Version(VERSION));
    assert_eq!(say(&client, b"N", None).0, Answer::Nothing);
    let (mut reader, writer) = io::pipe().unwrap();
    for name in [&b"Pb"[..], b"Pa", b"Pb"] {
        assert_eq!(say(&client, name, Some(writer.as_fd())).0, Answer::Done);
    }
    drop(writer);
    let (first, passed) = say(&client, b"N", None);
    assert_eq!((first, passed.len()), (Answer::Descriptor("a".into()), 1));
    drop(passed);
    let (second, passed) = say(&client, b"Na", None);
    assert_eq!((second, passed.len()), (Answer::Descriptor("b".into()), 1));
    assert_eq!(say(&client, b"Nb", None).0, Answer::Nothing);
    drop(passed);

    assert_eq!(say(&client, b"Ra", None).0, Answer::Done);
    assert_eq!(say(&client, b"Ra", None).0, Answer::Nothing);
    assert!(!descriptors::is_dead(&reader), "b is kept");
    assert_eq!(say(&client, b"Rb", None).0, Answer::Done);
    assert_eq!(
        reader.read(&mut [0]).unwrap(),
        0,
        "nobody has the other end"
    );
    drop(client);
    ended.join().unwrap().unwrap();
}

#[test]
fn nonsense_is_answered_and_changes_nothing() {
    let (client, ended) = keeper();
    let file = tempfile::tempfile().unwrap();
    assert_eq!(say(&client, b"Pgood", Some(file.as_fd())).0, Answer::Done);
    let long = [&b"P"[..], &[b'x'; 256]].concat();
    let huge = vec![b'V'; 3 * MAX_PACKET];
    for packet in [
        &b"?"[..],
        b"Xgood",
        b"P\xff",
        b"Pa:b",
        b"Pa\nb",
        b"P",
        &long,
        &huge,
    ] {
        for descriptor in [None, Some(file.as_fd())] {
            assert!(is_error(&say(&client, packet, descriptor).0), "{packet:?}");
        }
    }
    assert!(is_error(&say(&client, b"Pnone", None).0));
    // A descriptor that nobody asked for is closed.
    let (mut reader, writer) = io::pipe().unwrap();
    assert_eq!(
        say(&client, b"Rother", Some(writer.as_fd())).0,
        Answer::Nothing
    );
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    assert_eq!(
        say(&client, b"N", None).0,
        Answer::Descriptor("good".into())
    );
    assert_eq!(say(&client, b"Ngood", None).0, Answer::Nothing);
    assert_eq!(say(&client, b"Rgood", None).0, Answer::Done);
    drop(client);
    ended.join().unwrap().unwrap();
}

#[test]
fn it_ends_when_the_last_thing_it_keeps_is_dead_and_nobody_is_there() {
    let (client, ended) = keeper();
    let (reader, writer) = io::pipe().unwrap();
    assert_eq!(say(&client, b"Px", Some(writer.as_fd())).0, Answer::Done);
    drop(client);
    assert!(!ended.is_finished());
    // As a file system that is unmounted: the other end is gone.
    drop((reader, writer));
    ended.join().unwrap().unwrap();
}

#[test]
fn names_are_those_that_systemd_takes() {
    let long = "x".repeat(256);
    for (name, fits) in [
        ("nacre.1", true),
        ("with space", true),
        (&long[1..], true),
        (&long, false),
        ("", false),
        ("a:b", false),
        ("a\tb", false),
        ("\u{e9}", false),
    ] {
        assert_eq!(check_name(name).is_ok(), fits, "{name:?}");
    }
}

#[test]
fn one_process_locks_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    let lock = Lock::take(&path, Duration::ZERO).unwrap();
    let busy = Lock::take(&path, Duration::from_millis(1)).unwrap_err();
    assert_eq!(busy.kind(), Kind::Busy);
    let waiting = std::thread::spawn(move || {
        drop(Lock::take(&path, Duration::from_secs(60)).unwrap());
        Lock::wait(&path).unwrap();
    });
    drop(lock);
    waiting.join().unwrap();
}

/// What a service manager does with its messages: stores or not, answers barriers or not.
fn manager(path: PathBuf, stores: bool, answers: bool) -> JoinHandle<Vec<String>> {
    let socket = UnixDatagram::bind(path).unwrap();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let (mut stored, mut ignored) = (Vec::new(), Vec::new());
        let mut buffer = [0; 512];
        loop {
            let got = descriptors::receive(&socket, &mut buffer, true).unwrap();
            let text = String::from_utf8_lossy(&buffer[..got.length]).into_owned();
            match text.lines().next() {
                Some("FDSTORE=1") if stores => stored.extend(got.descriptors),
                Some("FDSTOREREMOVE=1") => stored.clear(),
                Some("BARRIER=1") if !answers => ignored.extend(got.descriptors),
                Some("END") => return said,
                _ => {}
            }
            said.push(text.replace('\n', " "));
        }
    })
}

fn chosen(choice: HandOver, stores: bool, answers: bool) -> (Result<bool>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = manager(path.clone(), stores, answers);
    let file = File::from(OwnedFd::from(tempfile::tempfile().unwrap()));
    let places = Places {
        root: directory.path().to_owned(),
        program: "/nonexistent".into(),
        notify_socket: Some(path.clone().into()),
        stored: vec![
            ("nacre.probe".into(), file.try_clone().unwrap().into()),
            ("nacre.x".into(), file.into()),
        ],
    };
    let opened = open(choice, places).map(|it| {
        let names: Vec<_> = it.kept.iter().map(|it| &*it.name).collect();
        assert_eq!(names, ["nacre.x"]);
        it.keeper.is_some()
    });
    let path = rustix::net::SocketAddrUnix::new(&path).unwrap();
    descriptors::send_datagram(&path, b"END", None).unwrap();
    (opened, manager.join().unwrap())
}

#[test]
fn the_manager_keeps_descriptors_only_if_it_really_does() {
    let probed = [
        "FDSTORE=1 FDNAME=nacre.probe FDPOLL=0",
        "BARRIER=1",
        "FDSTOREREMOVE=1 FDNAME=nacre.probe",
    ];
    for choice in [HandOver::Auto, HandOver::Systemd] {
        let (opened, said) = chosen(choice, true, true);
        assert!(opened.unwrap());
        assert_eq!(said, probed);
    }
    let (opened, said) = chosen(HandOver::Systemd, false, true);
    assert_eq!(opened.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(said, probed[..2]);
    // What it passed stays with it, since no process can be started to take it.
    let (opened, said) = chosen(HandOver::Auto, false, true);
    assert!(opened.unwrap());
    assert_eq!(said, probed[..2]);
    // Nobody is to keep anything: what it has, it is told to close.
    let (opened, said) = chosen(HandOver::Off, true, true);
    assert!(!opened.unwrap());
    assert_eq!(said, ["FDSTOREREMOVE=1 FDNAME=nacre.x"]);
}
