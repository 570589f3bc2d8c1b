//! How results and errors are printed: for people or as JSON.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{Error, Result};

/// Where and how to print.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
}

// === impl Output ===

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one result: `value` as a line of JSON, or `text`.
    pub(super) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        let line = if self.json {
            serde_json::to_string(value)
                .map_err(|e| Error::internal("printing JSON").with_source(e))?
        } else {
            text()
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .map_err(|e| Error::io("standard output", e))
    }

    /// Prints an error with its hint on standard error.
    pub(super) fn error(&self, error: &Error) {
        let text = if self.json {
            serde_json::json!({
                "error": { "kind": error.kind().as_str(), "message": error.to_string(), "hint": error.hint() }
            })
            .to_string()
        } else {
            let hint = error
                .hint()
                .map_or_else(String::new, |hint| format!("\nhint: {hint}"));
            format!("nacre: {error}{hint}")
        };
        // There is nowhere left to say that standard error is gone.
        let _unheard = writeln!(std::io::stderr(), "{text}");
    }

    /// A bar on standard error for long work, if somebody is there to see it.
    pub(super) fn progress(&self, what: &'static str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )
        .expect("the template is well-formed");
        ProgressBar::new(0).with_style(style).with_message(what)
    }
}

/// Bytes as people read them.
pub(super) fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
