//! Whether an index that somebody wrote down fits together: what a reader relies on.

use super::{
    Chunk, Codec, EntryKind, LayerIndex, MAX_CHUNK, MAX_UNIT, Place,
    files::check_xattrs,
    limits::{MAX_CHUNKS, MAX_ENTRIES, MAX_PATH, MAX_UNIT_PLAIN, MAX_UNITS},
    path::clean,
};

// === impl LayerIndex ===

impl LayerIndex {
    /// Checks that paths, attributes, chunks, units and checkpoints are ones that a reader can do
    /// with, in a blob of `blob` bytes.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, blob: u64) -> Result<(), String> {
        let table = &self.table;
        if self.entries.len() > MAX_ENTRIES || table.chunks.len() > MAX_CHUNKS {
            return Err("too many entries or chunks".into());
        }
        self.check_units(blob)?;
        for chunk in &table.chunks {
            self.check_chunk(chunk)?;
        }
        for entry in &self.entries {
            self.check_entry(entry)
                .map_err(|what| format!("entry {:?}: {what}", entry.path.escape_ascii()))?;
        }
        Ok(())
    }

    fn check_units(&self, blob: u64) -> Result<(), String> {
        let table = &self.table;
        let (units, checkpoints) = (&table.units, &table.checkpoints);
        if units.len() > MAX_UNITS {
            return Err("too many units".into());
        }
        let mut least = 0;
        for (number, unit) in units.iter().enumerate() {
            let end = unit.offset.checked_add(unit.length.into());
            let fits = unit.offset >= least && unit.length <= MAX_UNIT;
            if !fits || end.is_none_or(|end| end > blob) {
                return Err(format!("unit {number} is out of place"));
            }
            least = unit.offset;
        }
        let deflate = units.iter().filter(|it| it.codec == Codec::Deflate).count();
        if deflate == 0 && checkpoints.list.is_empty() {
            return Ok(());
        }
        let starts = units.iter().zip(&checkpoints.list);
        let mut starts = starts.map(|(unit, it)| unit.offset == it.offset);
        if deflate != units.len() || checkpoints.list.len() != deflate || !starts.all(|it| it) {
            return Err("units and checkpoints are not of each other".into());
        }
        checkpoints.check(blob)
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<(), String> {
        let bad = |what: &str| format!("a chunk at {} of its file: {what}", chunk.file_offset);
        if chunk.length == 0 || chunk.length > MAX_CHUNK {
            return Err(bad("its length"));
        }
        if let Place::Unit { unit, offset } = chunk.place {
            let end = offset.checked_add(chunk.length);
            if end.is_none_or(|end| end > MAX_UNIT_PLAIN) {
                return Err(bad("beyond what a unit holds"));
            }
            if unit as usize >= self.table.units.len() {
                return Err(bad("in no unit"));
            }
        }
        Ok(())
    }

    fn check_entry(&self, entry: &super::Entry) -> Result<(), String> {
        if clean(&entry.path)? != entry.path {
            return Err("its path is not a clean one".into());
        }
        if entry.path.is_empty() && entry.kind != EntryKind::Directory {
            return Err("the root is not a directory".into());
        }
        if entry.mode > 0o7777 || entry.mtime_nanos >= 1_000_000_000 {
            return Err("its mode or time".into());
        }
        match &entry.kind {
            EntryKind::Regular { size, chunks } => {
                let range = chunks.start as usize..chunks.end as usize;
                let run = self
                    .table
                    .chunks
                    .get(range)
                    .ok_or("its chunks are not there")?;
                let mut covered = 0_u64;
                for chunk in run {
                    if chunk.file_offset != covered {
                        return Err(format!("a gap or an overlap at {covered}"));
                    }
                    covered = covered.saturating_add(chunk.length.into());
                }
                if covered != *size {
                    return Err(format!("{size} bytes, its chunks have {covered}"));
                }
            }
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) {
                    return Err("its target".into());
                }
            }
            EntryKind::Hardlink(target) => {
                if target.is_empty() || clean(target)? != *target {
                    return Err("its target".into());
                }
            }
            EntryKind::Directory
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo => {}
        }
        check_xattrs(&entry.xattrs)
    }
}
