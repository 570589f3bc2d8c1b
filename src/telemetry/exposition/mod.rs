//! Writes a [`Sample`] as Prometheus reads it.
//!
//! Every name, its labels and its unit are in `docs/metrics.md`, which a test holds against this.
//! Labels are few and bounded: methods, kinds, classes, hosts; never a path, digest or reference.

mod families;
mod page;
#[cfg(test)]
mod tests;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::Registry,
};

use self::page::Page;
use super::sample::Sample;
use crate::error::{Error, Result};

/// The form of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

#[derive(Debug)]
struct Collected(Sample);

/// All metrics of a sample.
pub(super) fn write(sample: Sample, format: Format) -> Result<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(sample)));
    let mut text = String::new();
    match format {
        Format::Prometheus => prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => text::encode(&mut text, &registry),
    }
    .map_err(|e| Error::internal("writing metrics").with_source(e))?;
    Ok(text)
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        families::write(&mut Page::new(encoder), &self.0)
    }
}

// === impl Format ===

impl Format {
    /// What an `Accept` header asks for.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}
