//! `nacre ls`: lists files of an image without mounting it.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    args::{ImageArgs, StoreArgs},
    output::Output,
};
use crate::{
    error::{Error, Result},
    oci::Reference,
    tree::{Ino, Kind, Tree},
};

/// Options of `nacre ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    image: ImageArgs,
    /// Directory or file in the image.
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Everything below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Serialize)]
struct Line {
    path: String,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    nlink: u32,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

// === impl Ls ===

impl Ls {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let image = self.image.open(&self.store, None).await?;
        let tree = &*image.tree;
        let start = find(tree, &self.image.reference, &self.path)?;
        let mut lines = Vec::new();
        if tree.attributes(start).kind == Kind::Directory {
            list(tree, start, self.recursive, &mut lines);
        } else {
            lines.push(Line::of(tree, start, &tree.path(start)));
        }
        output.result(&lines, || text(&lines))
    }
}

/// The inode at `path`; a symlink at its end is not followed.
fn find(tree: &Tree, reference: &Reference, path: &std::path::Path) -> Result<Ino> {
    use std::os::unix::ffi::OsStrExt;
    tree.resolve(path.as_os_str().as_bytes())
        .ok_or_else(|| Error::not_found(format!("{reference}: no {} in it", path.display())))
}

fn list(tree: &Tree, directory: Ino, recursive: bool, lines: &mut Vec<Line>) {
    let mut pending = vec![directory];
    while let Some(directory) = pending.pop() {
        let base = tree.path(directory);
        let mut below = Vec::new();
        for child in tree.children(directory) {
            let path = [&base, child.name].join(&b'/');
            lines.push(Line::of(tree, child.ino, &path));
            if recursive && child.kind == Kind::Directory {
                below.push(child.ino);
            }
        }
        pending.extend(below.into_iter().rev());
    }
}

fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let target = line
            .target
            .as_ref()
            .map_or_else(String::new, |t| format!(" -> {t}"));
        writeln!(
            text,
            "{} {:>5} {:>5} {:>10} {}{target}",
            line.mode, line.uid, line.gid, line.size, line.path
        )
        .expect("writing to a string cannot fail");
    }
    text.trim_end().to_owned()
}

// === impl Line ===

impl Line {
    fn of(tree: &Tree, ino: Ino, path: &[u8]) -> Self {
        let attributes = tree.attributes(ino);
        let (letter, kind) = match attributes.kind {
            Kind::Directory => ('d', "directory"),
            Kind::Regular => ('-', "file"),
            Kind::Symlink => ('l', "symlink"),
            Kind::CharDevice => ('c', "char-device"),
            Kind::BlockDevice => ('b', "block-device"),
            Kind::Fifo => ('p', "fifo"),
        };
        let path = String::from_utf8_lossy(path);
        Self {
            path: format!("/{}", path.trim_start_matches('/')),
            kind,
            mode: format!("{letter}{}", permissions(attributes.mode)),
            uid: attributes.uid,
            gid: attributes.gid,
            size: attributes.size,
            nlink: attributes.nlink,
            mtime: attributes.mtime,
            target: tree
                .read_link(ino)
                .map(|t| String::from_utf8_lossy(t).into_owned()),
        }
    }
}

/// `rwsr-xr-x`.
fn permissions(mode: u16) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (i, (bit, with, without)) in special.into_iter().enumerate() {
        let three = mode >> (6 - 3 * i);
        text.push(if three & 4 != 0 { 'r' } else { '-' });
        text.push(if three & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & bit != 0, three & 1 != 0) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_as_ls_prints_them() {
        for (mode, want) in [
            (0o755, "rwxr-xr-x"),
            (0o4755, "rwsr-xr-x"),
            (0o1777, "rwxrwxrwt"),
            (0o2640, "rw-r-S---"),
        ] {
            assert_eq!(permissions(mode), want);
        }
    }
}
