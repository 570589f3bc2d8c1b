//! What is written, and that the documentation names it.

use std::{collections::BTreeSet, time::UNIX_EPOCH};

use super::*;
use crate::{
    Kind,
    keys::KeyMeter,
    measure::Histogram,
    snapshotter::{SnapshotCounts, images::ImagesCounts},
    source::{AnswerClass, TrafficSnapshot, registry::HostCounts},
    sys::usage::Usage,
    telemetry::{Check, Readiness, sample::ImagesSample},
};

/// A moment of a daemon that saw a little of everything.
fn sample() -> Sample {
    let opened = Histogram::default();
    opened.record(std::time::Duration::from_micros(30));
    opened.record(std::time::Duration::from_secs(90));
    let mut counts = ImagesCounts {
        admitted: crate::trust::Class::ALL.map(|class| (class.as_str(), class as u64)),
        opened: opened.times(),
        keys: KeyMeter::default().counts(),
        ..ImagesCounts::default()
    };
    counts.engines.numbers.reads = 7;
    counts.engines.numbers.read_bytes = 70;
    let host = HostCounts {
        host: "evil\"\\host\n.example:5000".into(),
        traffic: TrafficSnapshot {
            requests: 3,
            bytes: 1234,
        },
        answers: AnswerClass::ALL.map(|class| (class, 1)).to_vec(),
        ..HostCounts::default()
    };
    let check = |name, error: Option<&str>| Check {
        name,
        error: error.map(str::to_owned),
    };
    Sample {
        started: UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_250),
        readiness: Readiness {
            checks: vec![check("database", None), check("policy", Some("gone"))],
        },
        process: Usage {
            cpu: std::time::Duration::from_millis(1500),
            resident: 1 << 20,
            ..Usage::default()
        },
        operations: crate::snapshotter::Operations::default().counts(),
        snapshots: Some(SnapshotCounts {
            committed: 5,
            lazy: 2,
            ..SnapshotCounts::default()
        }),
        images: Some(ImagesSample {
            numbers: crate::snapshotter::images::ImagesSnapshot::default(),
            counts,
            open: 1,
            poisoned_mounts: 0,
            adopting: 3,
            waiting: 2,
            store: crate::store::StoreSnapshot::default(),
            limits: crate::store::StoreLimits::default(),
            hosts: vec![host],
        }),
    }
}

#[test]
fn both_forms_say_the_same_in_their_own_way() {
    let prometheus = write(sample(), Format::Prometheus).unwrap();
    let open_metrics = write(sample(), Format::OpenMetrics).unwrap();
    for line in [
        "nacre_build_info{version=\"0.1.0\"} 1",
        "nacre_ready{check=\"policy\"} 0",
        "nacre_snapshots{kind=\"unpacked\"} 3",
        "nacre_snapshot_operations_total{method=\"prepare\",result=\"ok\"} 0",
        "nacre_images_admitted_total{class=\"plain+signed\"} 2",
        "nacre_image_open_duration_seconds_count 2",
        "nacre_image_open_duration_seconds_bucket{le=\"+Inf\"} 2",
        "nacre_reads_total 7",
        "nacre_read_bytes_total 70",
        "nacre_confirmations_waiting 2",
        "nacre_adopting_mounts 3",
        "nacre_registry_received_bytes_total{host=\"evil\\\"\\\\host\\n.example:5000\"} 1234",
        "process_cpu_seconds_total 1.5",
        "process_resident_memory_bytes 1048576",
        "process_start_time_seconds 1700000000.25",
    ] {
        for text in [&prometheus, &open_metrics] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
    }
    let kinds = Kind::ALL.len();
    let refused = prometheus
        .lines()
        .filter(|it| it.starts_with("nacre_images_refused_total{"));
    assert_eq!(
        refused.count(),
        kinds,
        "an alert on one finds it before the first"
    );
    assert!(prometheus.contains("# TYPE nacre_reads_total counter\n"));
    assert!(open_metrics.contains("# TYPE nacre_reads counter\n"));
    assert!(open_metrics.contains("# UNIT nacre_read_bytes bytes\n"));
    assert!(open_metrics.ends_with("# EOF\n") && !prometheus.contains("EOF"));
    assert_eq!(
        Format::accepted("text/plain;version=0.0.4"),
        Format::Prometheus
    );
    let asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert_eq!(Format::accepted(asked), Format::OpenMetrics);
}

#[test]
fn without_images_there_is_nothing_of_them() {
    let bare = Sample {
        images: None,
        snapshots: None,
        ..sample()
    };
    let text = write(bare, Format::Prometheus).unwrap();
    assert!(text.contains("nacre_ready{") && !text.contains("nacre_mounts"));
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let text = write(sample(), Format::Prometheus).unwrap();
    let typed = text.lines().filter_map(|it| it.strip_prefix("# TYPE "));
    let written: BTreeSet<_> = typed.filter_map(|it| it.split(' ').next()).collect();
    let documentation = include_str!("../../../docs/metrics.md");
    let rows = documentation
        .lines()
        .filter_map(|it| it.strip_prefix("| `"));
    let names = rows.filter_map(|it| it.split('`').next());
    let documented: BTreeSet<_> = names
        .filter(|it| it.starts_with("nacre_") || it.starts_with("process_"))
        .collect();
    assert_eq!(written, documented);
}
