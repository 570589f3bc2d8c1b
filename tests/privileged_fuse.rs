//! What programs see through a mount, by each front end. Needs root; says so when it skips.

// Clippy knows only functions marked as tests, not those that they call.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;

use nacre::mount::{FrontEnd, MountOptions, mount_by};
use rustix::fs::{lgetxattr, llistxattr};

mod fixture;

use fixture::tree::{Shown, assert_same, odd_image};
use fixture::{Fault, Image, can_mount, front_ends, place};

#[test]
fn all_metadata_is_as_in_the_tree() {
    if !can_mount() {
        return;
    }
    let image = odd_image();
    let (_base, place) = place();
    let mounted = image.mount(&place).unwrap();
    let (tree, _) = image.build();
    assert_same(&place, &tree, Shown::BY_FUSE);
    // Again, from the kernel's caches.
    assert_same(&place, &tree, Shown::BY_FUSE);
    assert_eq!(
        fs::read(place.join("other")).unwrap(),
        b"#!/bin/sh\necho hello\n"
    );
    assert_eq!(fs::read(place.join("empty")).unwrap(), b"");
    let missing = fs::metadata(place.join("missing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let type_of = Command::new("stat")
        .args(["-f", "-c", "%l %s %c"])
        .arg(&place)
        .output();
    let text = String::from_utf8(type_of.unwrap().stdout).unwrap();
    assert_eq!(text.trim(), format!("255 4096 {}", tree.inode_count()));
    mounted.unmount().unwrap();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn xattr_calls_follow_the_size_protocol() {
    if !can_mount() {
        return;
    }
    let (_base, place) = place();
    let _mounted = odd_image().mount(&place).unwrap();
    let marked = place.join("marked");
    let get = |name: &str, room: usize| lgetxattr(&marked, name, &mut vec![0; room][..]);
    assert_eq!(size_of_xattr(&marked, c"user.note"), 5);
    assert_eq!(size_of_xattr(&marked, c"user.empty"), 0);
    assert_eq!(get("user.note", 4), Err(rustix::io::Errno::RANGE));
    assert_eq!(get("user.empty", 9), Ok(0));
    assert_eq!(get("user.missing", 9), Err(rustix::io::Errno::NODATA));
    assert_eq!(get("security.capability", 64), Ok(20));
    assert_eq!(
        llistxattr(&marked, &mut vec![0; 3][..]),
        Err(rustix::io::Errno::RANGE)
    );
}

/// With a buffer of size 0, for which rustix always says 0.
#[allow(unsafe_code)]
fn size_of_xattr(path: &Path, name: &std::ffi::CStr) -> isize {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: both strings end with a zero and live through the call; size 0 writes nothing.
    unsafe { nix::libc::lgetxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) }
}

/// containerd's diff fails on anything but ENODATA.
#[test]
fn a_tree_without_xattrs_has_no_data_for_any() {
    if !can_mount() {
        return;
    }
    let mut image = Image::new();
    image.file("a", "a");
    let (_base, place) = place();
    let _mounted = image.mount(&place).unwrap();
    for name in ["user.x", "security.capability"] {
        let answer = lgetxattr(place.join("a"), name, &mut [0; 8][..]);
        assert_eq!(answer, Err(rustix::io::Errno::NODATA));
    }
    for _ in 0..2 {
        let answer = llistxattr(place.join("a"), &mut [0; 8][..]);
        assert_eq!(answer, Err(rustix::io::Errno::OPNOTSUPP));
    }
}

#[test]
fn writing_is_refused() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        writing_is_refused_by(front_end);
    }
}

fn writing_is_refused_by(front_end: FrontEnd) {
    let (_base, place) = place();
    let _mounted = odd_image().mount_by(front_end, &place).unwrap();
    let readonly = ErrorKind::ReadOnlyFilesystem;
    assert_eq!(
        File::create(place.join("new")).unwrap_err().kind(),
        readonly
    );
    assert_eq!(
        File::create(place.join("empty")).unwrap_err().kind(),
        readonly
    );
    assert_eq!(
        fs::remove_file(place.join("empty")).unwrap_err().kind(),
        readonly
    );
    assert_eq!(
        fs::create_dir(place.join("d")).unwrap_err().kind(),
        readonly
    );
    assert_eq!(
        fs::rename(place.join("empty"), place.join("e"))
            .unwrap_err()
            .kind(),
        readonly
    );
}

#[test]
fn the_kernel_checks_permissions() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        the_kernel_checks_permissions_by(front_end);
    }
}

fn the_kernel_checks_permissions_by(front_end: FrontEnd) {
    let (base, place) = place();
    let _mounted = odd_image().mount_by(front_end, &place).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(base.path(), open).unwrap();
    let cat = |name: &str| {
        let mut command = Command::new("cat");
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
        command
            .arg(place.join(name))
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(!cat("secret"));
    assert!(cat("future"));
}

#[test]
fn a_directory_of_20000_names_is_complete() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        a_directory_of_20000_names_is_complete_by(front_end);
    }
}

fn a_directory_of_20000_names_is_complete_by(front_end: FrontEnd) {
    let mut image = Image::new();
    let name = |number: usize| format!("file-{number:05}-{}", "x".repeat(number % 90));
    for number in 0..20_000 {
        image.file(format!("d/{}", name(number)), "");
    }
    let (_base, place) = place();
    let _mounted = image.mount_by(front_end, &place).unwrap();
    for pass in ["asked", "cached"] {
        let read = fs::read_dir(place.join("d")).unwrap();
        let names: Vec<_> = read.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names.len(), 20_000, "{pass}");
        let distinct: HashSet<_> = names.into_iter().collect();
        assert!(
            (0..20_000).all(|it| distinct.contains(OsStr::new(&name(it)))),
            "{pass}"
        );
    }
    let count = Command::new("sh")
        .arg("-c")
        .arg("ls -la d | wc -l")
        .current_dir(&place)
        .output();
    assert_eq!(
        String::from_utf8(count.unwrap().stdout).unwrap().trim(),
        "20003"
    );
}

#[test]
fn concurrent_reads_get_their_own_bytes() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        concurrent_reads_get_their_own_bytes_by(front_end);
    }
}

fn concurrent_reads_get_their_own_bytes_by(front_end: FrontEnd) {
    let (_base, place) = place();
    let _mounted = odd_image().mount_by(front_end, &place).unwrap();
    let large = place.join("large");
    let readers: Vec<_> = (0..8_u64)
        .map(|reader| {
            let file = File::open(&large).unwrap();
            thread::spawn(move || {
                for step in 0..300_u64 {
                    let number = (step * 7919 + reader * 104_729) % 2_999_000;
                    let mut buffer = [0; 4000];
                    file.read_exact_at(&mut buffer, number * 4).unwrap();
                    for (index, word) in buffer.chunks(4).enumerate() {
                        let expected = number + index as u64;
                        let found = u32::from_le_bytes(word.try_into().unwrap());
                        assert_eq!(u64::from(found), expected);
                    }
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    let mut end = Vec::new();
    let mut file = File::open(&large).unwrap();
    file.read_to_end(&mut end).unwrap();
    assert_eq!(end.len(), 12_000_000);
    assert_eq!(file.read_at(&mut [0; 9], 12_000_000).unwrap(), 0);
}

#[test]
fn programs_run_from_the_mount() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        programs_run_from_the_mount_by(front_end);
    }
}

fn programs_run_from_the_mount_by(front_end: FrontEnd) {
    let mut image = Image::new();
    let shell = fs::read(fs::canonicalize("/bin/sh").unwrap()).unwrap();
    image.file("bin/sh", shell).mode = 0o4755;
    image.file("script", "#!/bin/sh\necho from a script\n").mode = 0o755;
    let (_base, place) = place();
    let _mounted = image.mount_by(front_end, &place).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shell = place.join("bin/sh");
    assert_eq!(
        run(Command::new(&shell).args(["-c", "echo $((6 * 7))"])),
        "42\n"
    );
    assert_eq!(
        run(&mut Command::new(place.join("script"))),
        "from a script\n"
    );
    let flags = nix::sys::statvfs::statvfs(&place).unwrap().flags();
    assert!(!flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
}

#[test]
fn failed_reads_are_eio_and_never_zeros() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        failed_reads_are_eio_and_never_zeros_by(front_end);
    }
}

fn failed_reads_are_eio_and_never_zeros_by(front_end: FrontEnd) {
    let mut image = Image::new();
    for name in ["fails", "short", "dropped", "well"] {
        image.file(name, vec![b'd'; 100_000]);
    }
    let (tree, reader) = image.build();
    let faults = [
        (0, Fault::Fails),
        (1, Fault::TooShort),
        (2, Fault::NeverAnswered),
    ];
    reader.faults.lock().unwrap().extend(faults);
    let (_base, place) = place();
    let options = MountOptions::new("test/image:1");
    let (images, served) = (["/var/tmp".into()], reader.clone());
    let mounted = mount_by(front_end, tree, served, &place, &images, &options);
    let _mounted = mounted.unwrap();
    for name in ["fails", "short", "dropped"] {
        let error = fs::read(place.join(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}");
    }
    assert_eq!(fs::read(place.join("well")).unwrap(), vec![b'd'; 100_000]);
    // What failed is not cached: once the data is there, it is served.
    reader.faults.lock().unwrap().clear();
    for name in ["fails", "short", "dropped"] {
        assert_eq!(
            fs::read(place.join(name)).unwrap(),
            vec![b'd'; 100_000],
            "{name}"
        );
    }
}

#[test]
fn inode_numbers_are_the_same_on_every_mount() {
    if !can_mount() {
        return;
    }
    let numbers = |image: &Image| {
        let (_base, place) = place();
        let _mounted = image.mount(&place).unwrap();
        let mut found: Vec<_> = fs::read_dir(&place)
            .unwrap()
            .map(|it| it.unwrap())
            .map(|it| (it.file_name(), it.metadata().unwrap().ino()))
            .collect();
        found.sort();
        found
    };
    let image = odd_image();
    let mut reversed = odd_image();
    let split = reversed.layers[0]
        .iter()
        .position(|it| *it.path == *b"null")
        .unwrap();
    reversed.layers[0][split..].reverse();
    let first = numbers(&image);
    assert_eq!(first, numbers(&image));
    assert_eq!(first, numbers(&reversed));
}

#[test]
fn an_overlay_on_top_can_be_written() {
    if !can_mount() {
        return;
    }
    for front_end in front_ends() {
        an_overlay_on_top_can_be_written_by(front_end);
    }
}

fn an_overlay_on_top_can_be_written_by(front_end: FrontEnd) {
    let (base, place) = place();
    let mounted = odd_image().mount_by(front_end, &place).unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| base.path().join(name));
    for directory in [&upper, &work, &merged] {
        fs::create_dir(directory).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        place.display(),
        upper.display(),
        work.display()
    );
    let flags = nix::mount::MsFlags::empty();
    let made = nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        flags,
        Some(&*options),
    );
    if let Err(errno) = made {
        println!("skipped: no overlay here: {errno}");
        return;
    }
    fs::write(merged.join("new"), "new").unwrap();
    fs::write(merged.join("empty"), "filled").unwrap();
    let appended = File::options()
        .append(true)
        .open(merged.join("marked"))
        .unwrap();
    std::io::Write::write_all(&mut &appended, b" and more").unwrap();
    fs::remove_file(merged.join("future")).unwrap();
    fs::rename(merged.join("bin/tool"), merged.join("moved")).unwrap();
    assert_eq!(fs::read(merged.join("empty")).unwrap(), b"filled");
    assert_eq!(
        fs::read(merged.join("marked")).unwrap(),
        b"with xattrs and more"
    );
    let mut note = [0; 16];
    assert_eq!(
        lgetxattr(merged.join("marked"), "user.note", &mut note),
        Ok(5)
    );
    assert_eq!(
        fs::read(merged.join("moved")).unwrap(),
        b"#!/bin/sh\necho hello\n"
    );
    assert!(!merged.join("future").exists());
    assert_eq!(fs::read(place.join("future")).unwrap(), b"y");
    drop(appended);
    nix::mount::umount(&merged).unwrap();
    assert_eq!(mounted.unmount().unwrap(), nacre::mount::Unmounted::Clean);
}
