//! What this process takes of the machine, in the units of Prometheus' `process_` metrics.

use std::{fs, time::Duration};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    sys::time::TimeVal,
    unistd::{SysconfVar, sysconf},
};

use crate::error::{Error, Result};

/// What this process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time in user and system mode, since its start.
    pub cpu: Duration,
    /// Bytes in memory.
    pub resident: u64,
    /// Bytes of address space.
    pub mapped: u64,
    /// Descriptors that are open.
    pub descriptors: u64,
    /// Descriptors that may be open.
    pub max_descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// Looks at this process.
///
/// # Errors
/// `Io` if `/proc` does not tell.
pub fn usage() -> Result<Usage> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| Error::io(what, e)
    };
    let times = getrusage(UsageWho::RUSAGE_SELF).map_err(|e| io("getrusage")(e.into()))?;
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| io("getrlimit")(e.into()))?;
    let statm = fs::read_to_string("/proc/self/statm").map_err(io("/proc/self/statm"))?;
    let (mapped, resident) =
        pages(&statm).ok_or_else(|| Error::internal(format!("/proc/self/statm: {statm:?}")))?;
    let page = sysconf(SysconfVar::PAGE_SIZE).map_err(|e| io("page size")(e.into()))?;
    let page = u64::try_from(page.unwrap_or(4096)).unwrap_or(4096);
    let count = |directory: &str| -> Result<u64> {
        let entries = fs::read_dir(directory).map_err(io(directory))?;
        Ok(entries.count() as u64)
    };
    Ok(Usage {
        cpu: duration(times.user_time()) + duration(times.system_time()),
        resident: resident * page,
        mapped: mapped * page,
        // One of them is the look at them.
        descriptors: count("/proc/self/fd")?.saturating_sub(1),
        max_descriptors: limit,
        threads: count("/proc/self/task")?,
    })
}

/// The first two numbers: all pages, and those in memory.
fn pages(statm: &str) -> Option<(u64, u64)> {
    let mut numbers = statm.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_memory_are_counted() {
        let before = usage().unwrap();
        let files: Vec<_> = (0..50)
            .map(|_| fs::File::open("/proc/self/statm").unwrap())
            .collect();
        let memory = vec![1_u8; 32 << 20];
        let after = usage().unwrap();
        // Other tests open and close some meanwhile.
        assert!(after.descriptors + 25 > before.descriptors + files.len() as u64);
        assert!(after.mapped >= before.mapped);
        assert!(after.resident >= memory.len() as u64);
        assert!(after.max_descriptors >= after.descriptors);
        assert!(after.cpu >= before.cpu && after.threads >= 1);
    }

    #[test]
    fn what_the_kernel_does_not_write_is_refused() {
        assert_eq!(pages("10 2 1 0 0 0 0\n"), Some((10, 2)));
        for text in ["", "10", "a b", "10 -1"] {
            assert_eq!(pages(text), None);
        }
    }
}
