//! Compares two directory trees in everything a file system can say about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// Where two trees differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// Path from the root of the trees; empty for the root.
    pub(crate) path: Vec<u8>,
    /// What differs: `mode`, `uid`, `content`, ...
    pub(crate) field: &'static str,
    /// What the first tree has, if anything.
    pub(crate) first: String,
    /// What the second tree has, if anything.
    pub(crate) second: String,
}

/// What stands for a missing entry.
const MISSING: &str = "nothing";

/// Everything in which `a` and `b` differ: entries, type, mode, owner, size, time of modification,
/// device, number of links and which names are linked, link target, attributes, content.
pub(crate) fn compare(a: &Path, b: &Path) -> Vec<Difference> {
    compare_except(a, b, &[])
}

/// As [`compare`], without the given paths (from the root of the trees) and what is below them.
pub(crate) fn compare_except(a: &Path, b: &Path, except: &[&str]) -> Vec<Difference> {
    let (first, second) = (walk(a, except), walk(b, except));
    let mut found = Vec::new();
    let paths: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    for path in paths {
        let mut differs = |field, first: String, second: String| {
            if first != second {
                let path = path.clone();
                found.push(Difference {
                    path,
                    field,
                    first,
                    second,
                });
            }
        };
        match (first.get(path), second.get(path)) {
            (Some(first), Some(second)) => {
                compare_entries((a, first), (b, second), path, &mut differs);
            }
            (Some(first), None) => differs("entry", kind(first).into(), MISSING.into()),
            (None, Some(second)) => differs("entry", MISSING.into(), kind(second).into()),
            (None, None) => unreachable!("a path of neither tree"),
        }
    }
    let (first, second) = (groups(&first), groups(&second));
    let paths: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    for path in paths {
        let (first, second) = (first.get(path), second.get(path));
        if first != second {
            found.push(Difference {
                path: (*path).clone(),
                field: "links",
                first: format!("{:?}", first.map(shown)),
                second: format!("{:?}", second.map(shown)),
            });
        }
    }
    found.sort();
    found
}

/// Panics with the first differences, if there are any.
pub(crate) fn assert_same(differences: &[Difference]) {
    let lines: Vec<_> = differences
        .iter()
        .take(30)
        .map(|d| format!("{d:?}"))
        .collect();
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        lines.join("\n")
    );
}

type Entries = BTreeMap<Vec<u8>, fs::Metadata>;

fn compare_entries(
    (a, first): (&Path, &fs::Metadata),
    (b, second): (&Path, &fs::Metadata),
    path: &[u8],
    differs: &mut dyn FnMut(&'static str, String, String),
) {
    differs("type", kind(first).into(), kind(second).into());
    let mut field = |name, value: &dyn Fn(&fs::Metadata) -> String| {
        differs(name, value(first), value(second));
    };
    field("mode", &|m| format!("{:o}", m.mode() & 0o7777));
    field("uid", &|m| m.uid().to_string());
    field("gid", &|m| m.gid().to_string());
    field("mtime", &|m| format!("{}.{:09}", m.mtime(), m.mtime_nsec()));
    if kind(first) != kind(second) {
        return;
    }
    if !first.is_dir() {
        field("size", &|m| m.size().to_string());
        field("nlink", &|m| m.nlink().to_string());
        field("rdev", &|m| m.rdev().to_string());
    }
    let (a, b) = (join(a, path), join(b, path));
    if first.is_symlink() {
        let target = |path: &Path| format!("{:?}", fs::read_link(path).unwrap());
        differs("target", target(&a), target(&b));
    }
    let (left, right) = (xattrs(&a), xattrs(&b));
    let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for name in names {
        let value = |all: &BTreeMap<Vec<u8>, Vec<u8>>| {
            let value = all.get(name).map(|v| v.escape_ascii().to_string());
            format!("{}={value:?}", name.escape_ascii())
        };
        differs("xattr", value(&left), value(&right));
    }
    if first.is_file()
        && first.size() == second.size()
        && let Some(difference) = content(&a, &b)
    {
        differs("content", difference, String::new());
    }
}

/// All entries below `root` and itself, by path from the root.
fn walk(root: &Path, except: &[&str]) -> Entries {
    let mut entries = Entries::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        if except.iter().any(|except| except.as_bytes() == path) {
            continue;
        }
        let full = join(root, &path);
        let metadata =
            fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        if metadata.is_dir() {
            let listing = fs::read_dir(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
            for child in listing {
                let name = child.unwrap().file_name().into_vec();
                todo.push(if path.is_empty() {
                    name
                } else {
                    [&path[..], b"/", &name].concat()
                });
            }
        }
        entries.insert(path, metadata);
    }
    entries
}

/// Each name of a file with several names, with all of them.
fn groups(entries: &Entries) -> BTreeMap<&Vec<u8>, BTreeSet<&Vec<u8>>> {
    let mut by_inode: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (path, metadata) in entries {
        if !metadata.is_dir() {
            let inode = (metadata.dev(), metadata.ino());
            by_inode.entry(inode).or_default().insert(path);
        }
    }
    by_inode
        .into_values()
        .filter(|names| names.len() > 1)
        .flat_map(|names| {
            names
                .clone()
                .into_iter()
                .map(move |name| (name, names.clone()))
        })
        .collect()
}

fn shown(names: &BTreeSet<&Vec<u8>>) -> Vec<String> {
    names
        .iter()
        .map(|name| name.escape_ascii().to_string())
        .collect()
}

fn join(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(OsStr::from_bytes(path))
    }
}

fn kind(metadata: &fs::Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_block_device() {
        "block device"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "socket"
    }
}

/// Attributes of all name spaces that can be read.
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => panic!("{}: attributes: {error}", path.display()),
    };
    let mut all = BTreeMap::new();
    for name in names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])
            .unwrap_or_else(|e| panic!("{}: attribute {name:?}: {e}", path.display()));
        value.truncate(length);
        all.insert(name.to_vec(), value);
    }
    all
}

/// The first byte in which two files differ.
fn content(a: &Path, b: &Path) -> Option<String> {
    let open = |path: &Path| {
        let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        io::BufReader::with_capacity(1 << 20, file)
    };
    let (mut first, mut second) = (open(a), open(b));
    let mut offset = 0;
    loop {
        let (left, right) = (fill(&mut first, a), fill(&mut second, b));
        let common = left.len().min(right.len());
        if let Some(at) = (0..common).find(|&at| left[at] != right[at]) {
            return Some(format!("differs at byte {}", offset + at));
        }
        if common == 0 {
            let same = left.is_empty() && right.is_empty();
            return (!same).then(|| format!("one ends at byte {offset}"));
        }
        io::BufRead::consume(&mut first, common);
        io::BufRead::consume(&mut second, common);
        offset += common;
    }
}

fn fill<'a>(reader: &'a mut impl io::BufRead, path: &Path) -> &'a [u8] {
    reader
        .fill_buf()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, field) = (self.path.escape_ascii(), self.field);
        write!(f, "\"{path}\" {field}: {} / {}", self.first, self.second)
    }
}
