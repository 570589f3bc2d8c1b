//! What one image's tree has that another's has not.
//!
//! Both trees come from the layers' indexes: names, attributes and chunk digests, which is all that
//! is fetched as long as both cut a file into the same chunks. Where they do not, and sizes agree, the
//! file is read on both sides and compared. Ordinary layers without an index that somebody vouches for
//! are read whole, and indexed on the way.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    engine::{Engine, FileData, LayerData},
    error::{Error, Result},
    index::{Algorithm, Chunk, ChunkTable, Place},
    oci::{Location, Reference},
    open::{Layer, Opened, Opener, attach},
    source::{Remembered, Repository},
    tree::{Attributes, Child, Ino, Kind, Tree},
    trust::Grant,
};

/// An image as its indexes show it.
#[derive(Debug)]
pub struct View {
    /// Why it may be looked at.
    pub grant: Grant,
    tree: Tree,
    layers: Vec<(Layer, Arc<ChunkTable>)>,
}

/// How two images differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What only the second has.
    pub added: Vec<Entry>,
    /// What only the first has.
    pub removed: Vec<Entry>,
    /// What both have under one name, not the same.
    pub changed: Vec<Change>,
    /// Files whose bytes had to be read to be compared.
    pub files_read: usize,
}

/// One name of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// From the root; what is not UTF-8 is replaced.
    pub path: String,
    /// `file`, `directory`, `symlink`, `char-device`, `block-device`, `fifo`.
    pub kind: &'static str,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file.
    pub size: u64,
}

/// One name that both trees have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// From the root.
    pub path: String,
    /// What is not the same.
    pub changes: Vec<Field>,
}

/// What is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// `kind`, `mode`, `uid`, `gid`, `size`, `mtime`, `device`, `target`, `xattr NAME`, `content`.
    pub what: String,
    /// In the first image, where it can be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// In the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Bytes compared at a time.
const PIECE: u32 = 1 << 20;

/// Opens an image to be compared.
///
/// # Errors
/// As [`Opener::open`].
pub async fn view(
    opener: &Opener,
    reference: &Reference,
    repository: &Arc<dyn Repository>,
    location: &Location,
) -> Result<View> {
    let repository = Remembered::new(Arc::clone(repository));
    let grant = opener.admit(reference, &repository, location).await?;
    let attached = async { Ok(opener.attached(&grant, &repository).await) };
    let (mut layers, claims, attached) = tokio::try_join!(
        opener.layers(&grant, &repository),
        opener.claims(&grant, &repository),
        attached
    )?;
    attach(&mut layers, &attached);
    let open = |(number, layer)| opener.open_layer(layer, number, &grant, claims.as_deref());
    let opened = futures::future::try_join_all(layers.iter().enumerate().map(open)).await?;
    let (entries, tables): (Vec<_>, Vec<_>) = opened
        .into_iter()
        .map(|Opened { index, .. }| (index.entries, Arc::new(index.table)))
        .unzip();
    let tree = Tree::merge(entries).map_err(|e| e.context(reference.to_string()))?;
    Ok(View {
        grant,
        tree,
        layers: layers.into_iter().zip(tables).collect(),
    })
}

/// Compares two images. `times` says whether times of modification count.
///
/// # Errors
/// What reading files says, where files have to be read.
pub async fn diff(first: &View, second: &View, opener: &Opener, times: bool) -> Result<Difference> {
    let mut comparison = Comparison {
        sides: [first, second],
        engines: [None, None],
        opener,
        times,
        found: Difference::default(),
    };
    comparison.run().await?;
    Ok(comparison.found)
}

struct Comparison<'a> {
    sides: [&'a View; 2],
    engines: [Option<Engine>; 2],
    opener: &'a Opener,
    times: bool,
    found: Difference,
}

// === impl Difference ===

impl Difference {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

// === impl View ===

impl View {
    fn chunks(&self, file: FileData) -> Option<&[Chunk]> {
        let (_, table) = self.layers.get(usize::from(file.layer))?;
        let first = usize::try_from(file.first_chunk).ok()?;
        let count = usize::try_from(file.chunk_count).ok()?;
        table.chunks.get(first..first.checked_add(count)?)
    }

    fn algorithm(&self, file: FileData) -> Option<Algorithm> {
        let (_, table) = self.layers.get(usize::from(file.layer))?;
        Some(table.algorithm)
    }

    fn engine(&self, opener: &Opener) -> Result<Engine> {
        let data = self.layers.iter().map(|(layer, table)| LayerData {
            digest: layer.descriptor.digest.clone(),
            table: Arc::clone(table),
            source: Arc::clone(&layer.source),
            space: layer.space.clone(),
        });
        let runtime = tokio::runtime::Handle::current();
        Engine::start(
            data.collect(),
            Arc::clone(&opener.store),
            runtime,
            opener.engine,
        )
    }
}

// === impl Comparison ===

impl Comparison<'_> {
    /// Walks both trees at once, names in their order.
    async fn run(&mut self) -> Result<()> {
        self.both(b"", Ino::ROOT, Ino::ROOT).await?;
        let mut pending = vec![(Vec::new(), Ino::ROOT, Ino::ROOT)];
        while let Some((base, first, second)) = pending.pop() {
            let [left, right] = self.sides;
            let mut below = Vec::new();
            for (name, first, second) in
                joined(left.tree.children(first), right.tree.children(second))
            {
                let path = [&base[..], name].join(&b'/');
                match (first, second) {
                    (Some(first), Some(second)) => {
                        self.both(&path, first, second).await?;
                        let directory =
                            |view: &View, ino| view.tree.attributes(ino).kind == Kind::Directory;
                        match (directory(left, first), directory(right, second)) {
                            (true, true) => below.push((path, first, second)),
                            (true, false) => all(&left.tree, &path, first, &mut self.found.removed),
                            (false, true) => all(&right.tree, &path, second, &mut self.found.added),
                            (false, false) => {}
                        }
                    }
                    (Some(first), None) => {
                        self.found.removed.push(Entry::of(&left.tree, &path, first));
                        all(&left.tree, &path, first, &mut self.found.removed);
                    }
                    (None, Some(second)) => {
                        self.found.added.push(Entry::of(&right.tree, &path, second));
                        all(&right.tree, &path, second, &mut self.found.added);
                    }
                    (None, None) => {}
                }
            }
            pending.extend(below.into_iter().rev());
        }
        self.found.added.sort_by(|a, b| a.path.cmp(&b.path));
        self.found.removed.sort_by(|a, b| a.path.cmp(&b.path));
        self.found.changed.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// Compares what both call by one name.
    async fn both(&mut self, path: &[u8], first: Ino, second: Ino) -> Result<()> {
        let [left, right] = self.sides.map(|view| &view.tree);
        let (a, b) = (left.attributes(first), right.attributes(second));
        let mut changes = Vec::new();
        let mut field = |what: &str, from: String, to: String| {
            if from != to {
                changes.push(Field {
                    what: what.to_owned(),
                    from: Some(from),
                    to: Some(to),
                });
            }
        };
        field("kind", name_of(a.kind).into(), name_of(b.kind).into());
        field("mode", octal(a), octal(b));
        field("uid", a.uid.to_string(), b.uid.to_string());
        field("gid", a.gid.to_string(), b.gid.to_string());
        if self.times {
            field("mtime", time(a), time(b));
        }
        if a.kind == b.kind {
            field("device", device(a), device(b));
            field("target", target(left, first), target(right, second));
            if a.kind == Kind::Regular {
                field("size", a.size.to_string(), b.size.to_string());
            }
        }
        attributes(left, first, right, second, &mut changes);
        if let (Some(one), Some(other)) = (left.file(first), right.file(second))
            && !self
                .same_content(one, other)
                .await
                .map_err(|e| e.context(format!("/{}", String::from_utf8_lossy(path))))?
        {
            changes.push(Field {
                what: "content".into(),
                from: None,
                to: None,
            });
        }
        if !changes.is_empty() {
            let path = shown(path);
            self.found.changed.push(Change { path, changes });
        }
        Ok(())
    }

    async fn same_content(&mut self, first: FileData, second: FileData) -> Result<bool> {
        if first.size != second.size {
            return Ok(false);
        }
        let bad = || Error::internal("a file's chunks are not in its layer's table");
        let chunks = (
            self.sides[0].chunks(first).ok_or_else(bad)?,
            self.sides[1].chunks(second).ok_or_else(bad)?,
        );
        let algorithms = (
            self.sides[0].algorithm(first),
            self.sides[1].algorithm(second),
        );
        if algorithms.0 == algorithms.1
            && let Some(same) = same_chunks(chunks.0, chunks.1)
        {
            return Ok(same);
        }
        self.found.files_read += 1;
        let [left, right] = self.engines()?;
        let mut offset = 0;
        while offset < first.size {
            let (a, b) = tokio::try_join!(
                left.read_async(first, offset, PIECE),
                right.read_async(second, offset, PIECE)
            )?;
            let length = a.len().min(b.len());
            if length == 0 {
                return Err(Error::internal(format!("no bytes at {offset}")));
            }
            if a[..length] != b[..length] {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }

    /// What reads files; started when the first has to be read.
    fn engines(&mut self) -> Result<[&Engine; 2]> {
        for (view, engine) in self.sides.iter().zip(&mut self.engines) {
            if engine.is_none() {
                *engine = Some(view.engine(self.opener)?);
            }
        }
        match &self.engines {
            [Some(left), Some(right)] => Ok([left, right]),
            _ => Err(Error::internal("an engine that was started is not there")),
        }
    }
}

/// Two directories' names, sorted, each once.
fn joined<'t>(
    left: impl Iterator<Item = Child<'t>>,
    right: impl Iterator<Item = Child<'t>>,
) -> Vec<(&'t [u8], Option<Ino>, Option<Ino>)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    let mut all = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return all,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.name.cmp(b.name),
        };
        let first = left.next_if(|_| order.is_le());
        let second = right.next_if(|_| order.is_ge());
        if let Some(child) = first.or(second) {
            all.push((child.name, first.map(|it| it.ino), second.map(|it| it.ino)));
        }
    }
}

/// Everything below a directory.
fn all(tree: &Tree, base: &[u8], directory: Ino, entries: &mut Vec<Entry>) {
    let mut pending = vec![(base.to_vec(), directory)];
    while let Some((base, directory)) = pending.pop() {
        for child in tree.children(directory) {
            let path = [&base[..], child.name].join(&b'/');
            entries.push(Entry::of(tree, &path, child.ino));
            if child.kind == Kind::Directory {
                pending.push((path, child.ino));
            }
        }
    }
}

/// Whether two files of one size have the same bytes; `None` if their chunks do not tell.
fn same_chunks(first: &[Chunk], second: &[Chunk]) -> Option<bool> {
    let cut = |chunks: &[Chunk]| -> Vec<(u64, u32)> {
        chunks
            .iter()
            .map(|it| (it.file_offset, it.length))
            .collect()
    };
    if cut(first) != cut(second) {
        return None;
    }
    let mut same = true;
    for (a, b) in first.iter().zip(second) {
        match (a.place, b.place) {
            (Place::Zeros, Place::Zeros) => {}
            (Place::Unit { .. }, Place::Unit { .. }) => same &= a.digest == b.digest,
            // One knows of its zeros, the other may have the same and not know.
            _ => return None,
        }
    }
    Some(same)
}

fn attributes(left: &Tree, first: Ino, right: &Tree, second: Ino, changes: &mut Vec<Field>) {
    let (a, b) = (left.xattrs(first), right.xattrs(second));
    let mut names: Vec<&[u8]> = a.iter().chain(b.iter()).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (from, to) = (a.value(name), b.value(name));
        if from != to {
            changes.push(Field {
                what: format!("xattr {}", String::from_utf8_lossy(name)),
                from: from.map(hex::encode),
                to: to.map(hex::encode),
            });
        }
    }
}

fn shown(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    format!("/{}", path.trim_start_matches('/'))
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::Regular => "file",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "char-device",
        Kind::BlockDevice => "block-device",
        Kind::Fifo => "fifo",
    }
}

fn octal(attributes: Attributes) -> String {
    format!("{:04o}", attributes.mode)
}

fn time(attributes: Attributes) -> String {
    format!("{}.{:09}", attributes.mtime, attributes.mtime_nanos)
}

fn device(attributes: Attributes) -> String {
    format!("{:#x}", attributes.rdev)
}

fn target(tree: &Tree, ino: Ino) -> String {
    let target = tree.read_link(ino).unwrap_or_default();
    target.escape_ascii().to_string()
}

// === impl Entry ===

impl Entry {
    fn of(tree: &Tree, path: &[u8], ino: Ino) -> Self {
        let attributes = tree.attributes(ino);
        Self {
            path: shown(path),
            kind: name_of(attributes.kind),
            mode: octal(attributes),
            uid: attributes.uid,
            gid: attributes.gid,
            size: match attributes.kind {
                Kind::Regular => attributes.size,
                _ => 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(file_offset: u64, length: u32, digest: u8, place: Place) -> Chunk {
        Chunk {
            file_offset,
            length,
            place,
            digest: [digest; 32],
        }
    }

    #[test]
    fn chunks_tell_what_they_can() {
        let unit = Place::Unit { unit: 0, offset: 0 };
        let other = Place::Unit { unit: 7, offset: 9 };
        let one = [chunk(0, 10, 1, unit), chunk(10, 5, 2, unit)];
        let moved = [chunk(0, 10, 1, other), chunk(10, 5, 2, other)];
        assert_eq!(same_chunks(&one, &moved), Some(true));
        let changed = [chunk(0, 10, 1, unit), chunk(10, 5, 3, unit)];
        assert_eq!(same_chunks(&one, &changed), Some(false));
        let whole = [chunk(0, 15, 1, unit)];
        assert_eq!(same_chunks(&one, &whole), None);
        let hole = [chunk(0, 10, 9, Place::Zeros), chunk(10, 5, 2, unit)];
        assert_eq!(same_chunks(&one, &hole), None);
        assert_eq!(same_chunks(&hole, &hole), Some(true));
        assert_eq!(same_chunks(&[], &[]), Some(true));
    }
}
