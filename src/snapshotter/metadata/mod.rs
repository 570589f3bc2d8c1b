//! The database of snapshots: one file, every operation a transaction, so that a crash leaves the
//! state before or after it.
//!
//! The rules (what may stand on what, what may be removed, which error says so) are those of
//! containerd's own metadata store. Records are JSON: they are few and small, and fields can be added
//! without a migration.

mod record;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use redb::{
    Database, DatabaseError, MultimapTableDefinition, ReadableDatabase as _,
    ReadableMultimapTable as _, ReadableTable, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};

pub use self::{
    record::{Info, Kind, Record},
    rules::{Commit, Remote},
};
use super::{
    error::{Result, SnapshotError},
    lazy::Evidence,
};
use crate::error::Error;

/// Records by key or name.
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Names of the snapshots that stand on one.
const CHILDREN: MultimapTableDefinition<'_, &str, &str> = MultimapTableDefinition::new("children");
/// Numbers: the last id, the version of the layout.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const LAST_ID: &str = "last-id";
const VERSION: &str = "version";
/// Layout of the tables that this program reads and writes.
const CURRENT_VERSION: u64 = 1;
/// Deeper chains are not of an image: overlayfs itself stops at 500 lower directories.
const MAX_CHAIN: usize = 1024;
/// The working set is a few hundred records of less than a page.
const CACHE_BYTES: usize = 4 << 20;

/// The database.
#[derive(Debug)]
pub struct Metadata {
    database: Database,
}

/// A write transaction: nothing it did is there until [`Write::commit`].
pub struct Write {
    transaction: WriteTransaction,
}

// === impl Metadata ===

impl Metadata {
    /// Opens the database, making it if it is missing and repairing it after a crash.
    ///
    /// # Errors
    /// [`Busy`](crate::Kind::Busy) if another process has it, [`Unsupported`](crate::Kind::Unsupported)
    /// if a later version wrote it.
    pub fn open(path: &Path) -> crate::Result<Self> {
        let what = format!("snapshot database {}", path.display());
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    Error::new(crate::Kind::Busy, format!("{what}: in use"))
                        .with_hint("another nacre serves this root")
                }
                other => database_error(other).context(what.clone()),
            })?;
        let metadata = Self { database };
        metadata.prepare().map_err(|e| e.context(what))?;
        Ok(metadata)
    }

    fn prepare(&self) -> crate::Result<()> {
        let write = self.begin()?;
        {
            let transaction = &write.transaction;
            transaction.open_table(SNAPSHOTS).map_err(database_error)?;
            transaction
                .open_multimap_table(CHILDREN)
                .map_err(database_error)?;
            let mut numbers = transaction.open_table(NUMBERS).map_err(database_error)?;
            let version = numbers.get(VERSION).map_err(database_error)?;
            match version.map(|it| it.value()) {
                Some(CURRENT_VERSION) => {}
                Some(other) => {
                    return Err(Error::unsupported(format!(
                        "version {other}, this program reads {CURRENT_VERSION}"
                    )));
                }
                None => {
                    numbers
                        .insert(VERSION, CURRENT_VERSION)
                        .map_err(database_error)?;
                }
            }
        }
        write.finish()
    }

    /// Begins to write; waits for another writer.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn write(&self) -> Result<Write> {
        Ok(self.begin()?)
    }

    fn begin(&self) -> crate::Result<Write> {
        let transaction = self.database.begin_write().map_err(database_error)?;
        Ok(Write { transaction })
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &str) -> Result<Record> {
        require(&self.table()?, name)
    }

    /// A snapshot and those it stands on, the nearest first.
    ///
    /// # Errors
    /// `NotFound` if one of them is not there.
    pub fn chain(&self, name: &str) -> Result<Vec<Record>> {
        chain(&self.table()?, name)
    }

    /// All snapshots, by name.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn all(&self) -> Result<Vec<Info>> {
        all(&self.table()?)
    }

    /// Reads a little.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn check(&self) -> Result<()> {
        self.table()?.len().map(drop).map_err(other)
    }

    /// What every lazy snapshot records.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn evidence(&self) -> Result<Vec<Evidence>> {
        let all = self.all()?.into_iter();
        Ok(all.filter_map(|info| info.record.evidence).collect())
    }

    /// What in the database contradicts itself; nothing, unless there is a defect.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn contradictions(&self) -> Result<Vec<String>> {
        let read = self.database.begin_read().map_err(other)?;
        let records: BTreeMap<_, _> = all(&read.open_table(SNAPSHOTS).map_err(other)?)?
            .into_iter()
            .map(|info| (info.name, info.record))
            .collect();
        let children = read.open_multimap_table(CHILDREN).map_err(other)?;
        let mut found = Vec::new();
        let mut ids = HashSet::new();
        for (name, record) in &records {
            if !ids.insert(record.id) {
                found.push(format!("{name}: id {} twice", record.id));
            }
            if record.parent.is_empty() {
                continue;
            }
            match records.get(&record.parent) {
                Some(parent) if parent.kind == Kind::Committed => {}
                Some(_) => found.push(format!("{name}: parent {} not committed", record.parent)),
                None => found.push(format!("{name}: parent {} missing", record.parent)),
            }
            let mut linked = false;
            for child in children.get(record.parent.as_str()).map_err(other)? {
                linked |= child.map_err(other)?.value() == name;
            }
            if !linked {
                found.push(format!(
                    "{name}: not among the children of {}",
                    record.parent
                ));
            }
        }
        for entry in children.iter().map_err(other)? {
            let (parent, names) = entry.map_err(other)?;
            for child in names {
                let child = child.map_err(other)?;
                let record = records.get(child.value());
                if record.is_none_or(|record| record.parent != parent.value()) {
                    let (parent, child) = (parent.value(), child.value());
                    found.push(format!("{parent}: {child} is no child of it"));
                }
            }
        }
        Ok(found)
    }

    fn table(&self) -> Result<redb::ReadOnlyTable<&'static str, &'static [u8]>> {
        let read = self.database.begin_read().map_err(other)?;
        read.open_table(SNAPSHOTS).map_err(other)
    }
}

// === impl Write ===

impl Write {
    /// Makes it so.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io); then nothing was done.
    pub fn commit(self) -> Result<()> {
        Ok(self.finish()?)
    }

    /// Ids of all snapshots.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io).
    pub fn ids(&self) -> Result<HashSet<u64>> {
        let all = all(&self.transaction.open_table(SNAPSHOTS).map_err(other)?)?;
        Ok(all.into_iter().map(|info| info.record.id).collect())
    }

    fn finish(self) -> crate::Result<()> {
        self.transaction.commit().map_err(database_error)
    }

    fn get(&self, name: &str) -> Result<Option<Record>> {
        get(
            &self.transaction.open_table(SNAPSHOTS).map_err(other)?,
            name,
        )
    }

    fn put(&self, name: &str, record: &Record) -> Result<()> {
        let json = serde_json::to_vec(record)
            .map_err(|e| Error::internal(format!("record of snapshot {name}")).with_source(e))?;
        let mut table = self.transaction.open_table(SNAPSHOTS).map_err(other)?;
        table.insert(name, json.as_slice()).map_err(other)?;
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let mut table = self.transaction.open_table(SNAPSHOTS).map_err(other)?;
        table.remove(name).map_err(other)?;
        Ok(())
    }

    fn link(&self, parent: &str, child: &str) -> Result<()> {
        let children = self.transaction.open_multimap_table(CHILDREN);
        children
            .map_err(other)?
            .insert(parent, child)
            .map_err(other)?;
        Ok(())
    }

    fn unlink(&self, parent: &str, child: &str) -> Result<()> {
        let children = self.transaction.open_multimap_table(CHILDREN);
        children
            .map_err(other)?
            .remove(parent, child)
            .map_err(other)?;
        Ok(())
    }

    fn has_children(&self, parent: &str) -> Result<bool> {
        let children = self.transaction.open_multimap_table(CHILDREN);
        let children = children.map_err(other)?;
        let count = children.get(parent).map_err(other)?.len();
        Ok(count > 0)
    }

    fn next_id(&self) -> Result<u64> {
        let mut numbers = self.transaction.open_table(NUMBERS).map_err(other)?;
        let last = numbers.get(LAST_ID).map_err(other)?;
        let id = last.map_or(0, |it| it.value()) + 1;
        numbers.insert(LAST_ID, id).map_err(other)?;
        Ok(id)
    }
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write").finish_non_exhaustive()
    }
}

fn get(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Record>> {
    let Some(json) = table.get(name).map_err(other)? else {
        return Ok(None);
    };
    parse(name, json.value()).map(Some)
}

fn parse(name: &str, json: &[u8]) -> Result<Record> {
    let record = serde_json::from_slice(json);
    Ok(record.map_err(|e| Error::corrupt(format!("record of snapshot {name}")).with_source(e))?)
}

fn require(table: &impl ReadableTable<&'static str, &'static [u8]>, name: &str) -> Result<Record> {
    get(table, name)?.ok_or_else(|| SnapshotError::NotFound(format!("snapshot {name}")))
}

fn chain(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Vec<Record>> {
    let mut found = vec![require(table, name)?];
    while let Some(last) = found.last()
        && !last.parent.is_empty()
    {
        if found.len() == MAX_CHAIN {
            let what = format!("snapshot {name}: more than {MAX_CHAIN} layers");
            return Err(SnapshotError::FailedPrecondition(what));
        }
        let parent = require(table, &last.parent)?;
        found.push(parent);
    }
    Ok(found)
}

fn all(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Vec<Info>> {
    let mut found = Vec::new();
    for entry in table.iter().map_err(other)? {
        let (name, json) = entry.map_err(other)?;
        let record = parse(name.value(), json.value())?;
        let name = name.value().to_owned();
        found.push(Info { name, record });
    }
    Ok(found)
}

fn database_error(error: impl Into<redb::Error>) -> Error {
    Error::new(crate::Kind::Io, "snapshot database").with_source(error.into())
}

fn other(error: impl Into<redb::Error>) -> SnapshotError {
    database_error(error).into()
}
