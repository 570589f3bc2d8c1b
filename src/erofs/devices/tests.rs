use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::engine::{FileData, ReadDone, ReadFile};
use crate::erofs::Layout;
use crate::index::{Entry, EntryKind};
use crate::tree::Tree;

/// Answers with the number of the file's first chunk.
struct Numbers;

impl ReadFile for Numbers {
    fn read(&self, file: FileData, _: u64, length: u32, done: ReadDone) {
        match file.first_chunk {
            // Of the file that fails.
            9 => done(Err(Error::corrupt("chunk 9"))),
            // Of the file that is too short.
            8 => done(Ok(Bytes::from_static(b"x"))),
            // Of the file that is never answered.
            7 => drop(done),
            first => {
                let byte = u8::try_from(first).unwrap();
                done(Ok(Bytes::from(vec![byte; length as usize])));
            }
        }
    }
}

fn device(name: &str, files: &[(u32, u64)]) -> Device {
    let entries = files.iter().map(|&(first, size)| Entry {
        path: first.to_string().into_bytes().into(),
        kind: EntryKind::Regular {
            size,
            chunks: first..first + 1,
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    });
    let tree = Arc::new(Tree::merge(vec![entries.collect()]).unwrap());
    let layout = Layout::new(&tree, |_| Vec::new()).unwrap();
    Device::new(name, "image", tree, layout, Arc::new(Numbers))
}

fn read(device: Device, offset: u64, length: u32) -> Option<Result<Bytes>> {
    let (send, receive) = mpsc::channel();
    let done = move |result| send.send(result).unwrap();
    device.read(offset, length, Box::new(done));
    receive.recv().ok()
}

/// Asks for a device by number; the answer says whether it was there.
fn ask(devices: &Devices, number: u64) -> mpsc::Receiver<bool> {
    let (send, receive) = mpsc::channel();
    devices.when_there(number, move |device| send.send(device.is_some()).unwrap());
    receive
}

#[test]
fn a_read_may_span_files_and_what_lies_between() {
    let files = || device("d", &[(1, 10), (2, 5000)]);
    let all = read(files(), 0, 3 * 4096).unwrap().unwrap();
    let expected = [vec![1; 10], vec![0; 4086], vec![2; 5000], vec![0; 3192]].concat();
    assert_eq!(all, expected);
    assert_eq!(
        read(files(), 4090, 10).unwrap().unwrap(),
        expected[4090..4100]
    );
    assert_eq!(read(files(), 5000, 10).unwrap().unwrap(), [2; 10][..]);
    assert_eq!(read(files(), 3 * 4096 - 1, 9).unwrap().unwrap(), [0][..]);
    assert_eq!(read(files(), 3 * 4096, 9).unwrap().unwrap(), "");
}

#[test]
fn one_bad_file_fails_a_read_as_a_whole() {
    let files = |bad| device("d", &[(1, 10), (bad, 10), (10, 10)]);
    let kind = |bad| read(files(bad), 0, 3 * 4096).unwrap().unwrap_err().kind();
    assert_eq!(kind(9), Kind::Corrupt);
    assert_eq!(kind(8), Kind::Internal);
    assert!(
        read(files(7), 0, 3 * 4096).is_none(),
        "the reply is dropped"
    );
    let one = read(files(9), 4096, 10).unwrap();
    assert_eq!(one.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(read(files(9), 0, 4096).unwrap().unwrap().len(), 4096);
}

#[test]
fn numbers_say_name_and_layout() {
    let number = |name, files| device(name, files).number();
    let plain = number("a-1", &[(1, 10)]);
    assert_eq!(number("a-1", &[(1, 10)]), plain);
    let other = number("a-1", &[(1, 11)]);
    assert_eq!((other >> 32, other != plain), (plain >> 32, true));
    assert_ne!(number("a-2", &[(1, 10)]) >> 32, plain >> 32);
}

#[test]
fn a_retired_device_stays_while_it_is_open() {
    let devices = Devices::new();
    let first = device("a", &[(1, 10)]);
    let number = first.number();
    devices.add(first).unwrap();
    assert_eq!(
        devices.add(device("a", &[])).unwrap_err().kind(),
        Kind::Busy
    );
    assert_eq!(devices.names(), ["a"]);
    assert!(devices.opened(number));
    devices.retire("a");
    assert_eq!((devices.names().len(), devices.count()), (0, 1));
    assert!(ask(&devices, number).recv().unwrap());
    assert!(!devices.opened(number), "it is not opened again");
    assert_eq!(
        devices.add(device("a", &[])).unwrap_err().kind(),
        Kind::Busy
    );
    // Mounted again while a container still uses the first mount.
    devices.add(device("a", &[(1, 10)])).unwrap();
    assert!(devices.opened(number));
    devices.retire("a");
    devices.closed(number);
    assert_eq!(devices.count(), 1);
    devices.closed(number);
    assert_eq!(devices.count(), 0);
    assert!(!ask(&devices, number).recv().unwrap());
    devices.add(device("a", &[])).unwrap();
    devices.retire("a");
    assert_eq!(devices.count(), 0);
}

#[test]
fn reads_wait_for_an_expected_device() {
    let devices = Devices::new();
    assert!(devices.is_empty());
    devices.expect("a", "image");
    let later = device("a", &[(1, 10)]);
    let number = later.number();
    let (one, two) = (ask(&devices, number), ask(&devices, number));
    let other_layout = ask(&devices, number ^ 1);
    assert!(one.try_recv().is_err());
    assert!(!devices.has("a") && !devices.is_empty());
    devices.add(later).unwrap();
    assert!(devices.has("a"));
    assert!(one.recv().unwrap() && two.recv().unwrap());
    assert!(!other_layout.recv().unwrap());
    // The mount of before has it open.
    devices.retire("a");
    assert_eq!(devices.count(), 1);
    devices.closed(number);
    assert_eq!(devices.count(), 0);
}

#[test]
fn reads_fail_when_an_expected_device_will_not_come() {
    let devices = Devices::new();
    devices.expect("a", "image");
    let number = device("a", &[(1, 10)]).number();
    let waits = ask(&devices, number);
    devices.retire("a");
    assert!(!waits.recv().unwrap());
    assert!(!ask(&devices, number).recv().unwrap());
}

#[test]
fn an_expected_device_fails_requests_until_it_is_there() {
    let devices = Devices::new();
    devices.expect("a", "image");
    let later = device("a", &[(1, 10)]);
    let number = later.number();
    let waits = ask(&devices, number);
    devices.fail("b", Error::invalid("another"));
    assert!(waits.try_recv().is_err());
    devices.fail("a", Error::denied("the policy says no"));
    assert!(!waits.recv().unwrap());
    assert!(!ask(&devices, number).try_recv().unwrap());
    devices.add(later).unwrap();
    assert!(ask(&devices, number).recv().unwrap());
    // Too late.
    devices.fail("a", Error::denied("the policy says no"));
    assert!(ask(&devices, number).recv().unwrap());
}

/// The kernel asks by these numbers for as long as a mount lives, whichever process answers. If other
/// numbers are wanted, [`NUMBERING`] must change with them.
#[test]
fn numbers_stay_what_they_are() {
    let files = &[(1, 10), (3, 5000), (2, 0), (4, 1 << 33)];
    let plain = device("0a0a-3", files).number();
    let entries = vec![vec![Entry {
        path: b"sparse"[..].into(),
        kind: EntryKind::Regular {
            size: 1 << 30,
            chunks: 0..9,
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
    }]];
    let tree = Arc::new(Tree::merge(entries).unwrap());
    let layout = Layout::new(&tree, |_| vec![0..1 << 20, 5 << 20..1 << 30]).unwrap();
    let sparse = Device::new("0b0b-0", "image", tree, layout, Arc::new(Numbers)).number();
    assert_eq!(
        (NUMBERING, format!("{plain:x} {sparse:x}")),
        (1, "f9f6bf4df9923171 e0df369fae64f5ef".to_owned())
    );
}
