//! Where the stored runs of a sparse file are: the GNU header and the three PAX forms.

use std::io::Read;

use super::{
    BLOCK, TarEntry, TarReader, fill,
    header::{Raw, number},
    pax::{Records, decimal},
};
use crate::error::{Error, Result};

/// Offset and length of stored bytes of a file; between runs are holes.
pub(super) type Run = (u64, u64);

/// Runs of one file; GNU tar writes one for every 512 bytes at worst.
const MAX_RUNS: usize = 1 << 20;

/// The runs of `entry`, whose size and name become those of the whole file; `None` if it is not sparse.
/// `left` is what is stored, and then what is stored behind a map.
pub(super) fn map<R: Read>(
    reader: &mut TarReader<R>,
    header: &Raw,
    records: &Records,
    entry: &mut TarEntry,
    left: &mut u64,
) -> Result<Option<Vec<Run>>> {
    let runs = if header.kind() == b'S' {
        old(reader, header, entry)?
    } else if records.get(b"GNU.sparse.major") == Some(b"1") {
        in_data(reader, left)?
    } else if let Some(list) = records.get(b"GNU.sparse.map") {
        pairs(list.split(|b| *b == b',').map(decimal))?
    } else if records.get(b"GNU.sparse.numblocks").is_some()
        || records.get(b"GNU.sparse.offset").is_some()
    {
        in_records(records)?
    } else {
        return Ok(None);
    };
    if let Some(name) = records.get(b"GNU.sparse.name") {
        entry.name = name.to_vec();
    }
    if header.kind() != b'S' {
        let size = records.number("GNU.sparse.realsize")?;
        entry.size = match size {
            Some(size) => size,
            None => records
                .number("GNU.sparse.size")?
                .ok_or_else(|| Error::invalid("tar: a sparse file without a size"))?,
        };
    }
    check(&runs, *left, entry.size)?;
    Ok(Some(runs))
}

/// Runs are in order, do not touch the end of the file, and are all that is stored.
fn check(runs: &[Run], stored: u64, size: u64) -> Result<()> {
    let mut end = 0;
    let mut sum = 0u64;
    for (offset, length) in runs {
        if *offset < end {
            return Err(Error::invalid("tar: the runs of a sparse file overlap"));
        }
        end = offset
            .checked_add(*length)
            .filter(|end| *end <= size)
            .ok_or_else(|| Error::invalid("tar: a run of a sparse file is beyond its end"))?;
        sum += length;
    }
    if sum != stored {
        return Err(Error::invalid(
            "tar: the runs of a sparse file are not what is stored",
        ));
    }
    Ok(())
}

/// In the header itself and in blocks after it.
fn old<R: Read>(reader: &mut TarReader<R>, header: &Raw, entry: &mut TarEntry) -> Result<Vec<Run>> {
    if !header.is_gnu() {
        // The same letter means something else in an archive of star.
        return Err(Error::unsupported("tar: a sparse file that is not GNU's"));
    }
    let block = header.bytes();
    let size = number(&block[483..495])?;
    entry.size = u64::try_from(size).map_err(|_| Error::invalid("tar: a negative size"))?;
    let mut runs = Vec::new();
    take_runs(&block[386..482], &mut runs)?;
    let mut more = block[482] != 0;
    while more {
        reader.blocks(1)?;
        let block = reader.raw[reader.raw.len() - BLOCK..].to_vec();
        take_runs(&block[..504], &mut runs)?;
        more = block[504] != 0;
        if runs.len() > MAX_RUNS {
            return Err(too_many());
        }
    }
    Ok(runs)
}

fn take_runs(fields: &[u8], runs: &mut Vec<Run>) -> Result<()> {
    let unsigned =
        |field| u64::try_from(number(field)?).map_err(|_| Error::invalid("tar: a negative run"));
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        runs.push((unsigned(&field[..12])?, unsigned(&field[12..])?));
    }
    Ok(())
}

/// PAX 1.0: decimal lines before the data, filled up to a block.
fn in_data<R: Read>(reader: &mut TarReader<R>, left: &mut u64) -> Result<Vec<Run>> {
    let bad = || Error::invalid("tar: a malformed sparse map");
    let mut text: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut line = |reader: &mut TarReader<R>, left: &mut u64| -> Result<u64> {
        loop {
            if let Some(length) = text[at..].iter().position(|b| *b == b'\n') {
                let number = decimal(&text[at..at + length])?;
                at += length + 1;
                return Ok(number);
            }
            let mut block = [0; BLOCK];
            *left = left.checked_sub(BLOCK as u64).ok_or_else(bad)?;
            if fill(&mut reader.input, &mut block)? < BLOCK || text.len() - at > BLOCK {
                return Err(bad());
            }
            text.drain(..at);
            at = 0;
            text.extend_from_slice(&block);
        }
    };
    let count = usize::try_from(line(reader, left)?).map_err(|_| too_many())?;
    if count > MAX_RUNS {
        return Err(too_many());
    }
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push((line(reader, left)?, line(reader, left)?));
    }
    Ok(runs)
}

/// PAX 0.0: a record for each offset, followed by one for its length.
fn in_records(records: &Records) -> Result<Vec<Run>> {
    let mut wanted = [&b"GNU.sparse.offset"[..], b"GNU.sparse.numbytes"]
        .into_iter()
        .cycle();
    let numbers = records
        .all()
        .filter(|(key, _)| *key == b"GNU.sparse.offset" || *key == b"GNU.sparse.numbytes")
        .map(|(key, value)| match wanted.next() == Some(key) {
            true => decimal(value),
            false => Err(Error::invalid("tar: sparse records out of order")),
        });
    pairs(numbers)
}

fn pairs(mut numbers: impl Iterator<Item = Result<u64>>) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers
            .next()
            .ok_or_else(|| Error::invalid("tar: a sparse map of an odd length"))?;
        if runs.len() == MAX_RUNS {
            return Err(too_many());
        }
        runs.push((offset?, length?));
    }
    Ok(runs)
}

fn too_many() -> Error {
    Error::invalid(format!("tar: a sparse file of more than {MAX_RUNS} runs"))
}
