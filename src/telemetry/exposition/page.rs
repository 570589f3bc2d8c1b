//! Families of metrics, one call each.

use std::fmt::{Error, Result};

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    },
    metrics::{MetricType, exemplar::Exemplar},
    registry::Unit,
};

use crate::measure::{BOUNDS, Times};

/// Where families are written to.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

/// What is told of a family: its name without unit and `_total`, and a sentence.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

/// Values of labels, in the order of a family's keys.
type Labels<'a, const N: usize> = [&'a str; N];

type NoExemplars = std::collections::HashMap<usize, Exemplar<NoLabelSet, f64>>;

// === impl Family ===

impl Family {
    pub(super) fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            unit: None,
        }
    }

    pub(super) fn bytes(name: &'static str, help: &'static str) -> Self {
        Self {
            unit: Some(Unit::Bytes),
            ..Self::new(name, help)
        }
    }

    pub(super) fn seconds(name: &'static str, help: &'static str) -> Self {
        Self {
            unit: Some(Unit::Seconds),
            ..Self::new(name, help)
        }
    }
}

// === impl Page ===

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A number that grows.
    pub(super) fn counter(&mut self, family: &Family, value: impl EncodeCounterValue) -> Result {
        let mut metric = self.family(family, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Numbers that grow, told apart by labels.
    pub(super) fn counters<'v, const N: usize>(
        &mut self,
        family: &Family,
        keys: [&str; N],
        values: impl IntoIterator<Item = (Labels<'v, N>, u64)>,
    ) -> Result {
        let mut metric = self.family(family, MetricType::Counter)?;
        for (labels, value) in values {
            let labels = pairs(keys, labels);
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A number that is what it is at the moment.
    pub(super) fn gauge(&mut self, family: &Family, value: impl EncodeGaugeValue) -> Result {
        let mut metric = self.family(family, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// Numbers that are what they are at the moment, told apart by labels.
    pub(super) fn gauges<'v, const N: usize>(
        &mut self,
        family: &Family,
        keys: [&str; N],
        values: impl IntoIterator<Item = (Labels<'v, N>, u64)>,
    ) -> Result {
        let mut metric = self.family(family, MetricType::Gauge)?;
        for (labels, value) in values {
            let labels = pairs(keys, labels);
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// How long things took.
    pub(super) fn histogram(&mut self, family: &Family, times: &Times) -> Result {
        let mut metric = self.family(family, MetricType::Histogram)?;
        let count = times.count();
        metric.encode_histogram(sum(times), count, &buckets(times), None::<&NoExemplars>)
    }

    /// How long things took, told apart by labels.
    pub(super) fn histograms<'v, const N: usize>(
        &mut self,
        family: &Family,
        keys: [&str; N],
        all: impl IntoIterator<Item = (Labels<'v, N>, Times)>,
    ) -> Result {
        let mut metric = self.family(family, MetricType::Histogram)?;
        for (labels, times) in all {
            let labels = pairs(keys, labels);
            let count = times.count();
            metric.encode_family(&labels)?.encode_histogram(
                sum(&times),
                count,
                &buckets(&times),
                None::<&NoExemplars>,
            )?;
        }
        Ok(())
    }

    /// Facts that do not change, as labels.
    pub(super) fn info<const N: usize>(
        &mut self,
        family: &Family,
        labels: [(&str, &str); N],
    ) -> Result {
        self.family(family, MetricType::Info)?.encode_info(&labels)
    }

    fn family<'s>(
        &'s mut self,
        family: &'s Family,
        kind: MetricType,
    ) -> std::result::Result<MetricEncoder<'s>, Error> {
        let Family { name, help, unit } = family;
        self.0.encode_descriptor(name, help, unit.as_ref(), kind)
    }
}

fn pairs<'v, const N: usize>(keys: [&'v str; N], labels: Labels<'v, N>) -> [(&'v str, &'v str); N] {
    std::array::from_fn(|i| (keys[i], labels[i]))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a sum of years is still exact to microseconds"
)]
fn sum(times: &Times) -> f64 {
    times.nanos as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "bounds are small")]
fn buckets(times: &Times) -> Vec<(f64, u64)> {
    let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e9);
    bounds.chain([f64::INFINITY]).zip(times.buckets).collect()
}
