//! Where log lines go and what they look like there: standard error, so that results can be piped.
//!
//! One event is one line. The journal has times of its own and reads a priority from the beginning of
//! a line (sd-daemon(3)); colours are for terminals. Names of events: `docs/logs.md`.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, IsTerminal as _},
    os::fd::AsFd,
};

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// What standard error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Somebody watches.
    Terminal,
    /// systemd's journal.
    Journal,
    /// A file, a pipe, another collector.
    Other,
}

/// One event, one line, with a priority before it if there is somebody to read it.
struct OneLine<F> {
    inner: F,
    priority: bool,
}

/// Starts logging. `RUST_LOG` wins over `default_filter`.
pub(super) fn init(default_filter: &str, json: bool) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let stderr = io::stderr();
    let journal = std::env::var_os("JOURNAL_STREAM");
    let target = if stderr.is_terminal() {
        Target::Terminal
    } else if journal.is_some_and(|it| is_stream(&it, stderr)) {
        Target::Journal
    } else {
        Target::Other
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
    let ansi = target == Target::Terminal && !no_color;
    let priority = target == Target::Journal;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(ansi);
    let line = |inner| OneLine { inner, priority };
    match (json, target) {
        // A line is a record of its own, whoever keeps it: it keeps its time.
        (true, _) => builder
            .json()
            .map_event_format(|inner| OneLine { inner, priority })
            .init(),
        (false, Target::Terminal) => builder.init(),
        (false, Target::Journal) => builder.without_time().map_event_format(line).init(),
        (false, Target::Other) => builder
            .map_event_format(|inner| OneLine { inner, priority })
            .init(),
    }
}

/// Whether the descriptor is the stream that `JOURNAL_STREAM` names by device and inode: a program
/// that was started by one that writes to the journal inherits the variable, but may write elsewhere.
fn is_stream(variable: &OsStr, descriptor: impl AsFd) -> bool {
    let named = variable.to_str().and_then(|it| it.split_once(':'));
    let numbers = named.and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    let found = fstat(descriptor).map(|it| (it.st_dev, it.st_ino));
    found.is_ok_and(|found| numbers == Some(found))
}

// === impl OneLine ===

impl<S, N, F> FormatEvent<S, N> for OneLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        if self.priority {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        // Errors quote what others wrote: files, registries, key providers.
        for (n, part) in line.trim().lines().enumerate() {
            let separator = if n == 0 { "" } else { " | " };
            write!(writer, "{separator}{}", part.trim_end_matches('\r'))?;
        }
        writeln!(writer)
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(priority: bool) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(written.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .map_event_format(|inner| OneLine { inner, priority })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = "line 1\r\nline 2\n";
            tracing::warn!(event = "image_refused", %error, "refused");
            tracing::info!("done");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_a_line_whatever_it_quotes() {
        let plain = written(false);
        assert_eq!(plain.lines().count(), 2, "{plain}");
        assert!(plain.contains("event=\"image_refused\""), "{plain}");
        assert!(plain.contains("line 1 | line 2"), "{plain}");
        let for_the_journal = written(true);
        let starts: Vec<_> = for_the_journal.lines().map(|it| &it[..7]).collect();
        assert_eq!(starts, ["<4>WARN", "<6>INFO"]);
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let found = fstat(&file).unwrap();
        let named =
            |device: u64, inode: u64| is_stream(OsStr::new(&format!("{device}:{inode}")), &file);
        assert!(named(found.st_dev, found.st_ino));
        assert!(!named(found.st_dev, found.st_ino + 1));
        assert!(!is_stream(OsStr::new(""), &file) && !is_stream(OsStr::new("a:b"), &file));
    }
}
