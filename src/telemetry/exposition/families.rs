//! Which numbers of a sample are shown under which names.

use std::{fmt::Result, time::UNIX_EPOCH};

use super::page::{Family, Page};
use crate::{
    engine::ServedFrom,
    measure::KindCounts,
    telemetry::sample::{ImagesSample, Sample},
};

/// Writes all families, room by room.
pub(super) fn write(page: &mut Page<'_>, sample: &Sample) -> Result {
    daemon(page, sample)?;
    snapshots(page, sample)?;
    if let Some(images) = &sample.images {
        admission(page, images)?;
        mounts(page, images)?;
        reads(page, images)?;
        store(page, images)?;
        confirmation(page, images)?;
        keys(page, images)?;
        registries(page, images)?;
    }
    process(page, sample)
}

fn daemon(page: &mut Page<'_>, sample: &Sample) -> Result {
    page.info(
        &Family::new("nacre_build", "Version of the program"),
        [("version", env!("CARGO_PKG_VERSION"))],
    )?;
    let checks = sample.readiness.checks.iter();
    page.gauges(
        &Family::new("nacre_ready", "1 if this needs no attention, see /readyz"),
        ["check"],
        checks.map(|it| ([it.name], u64::from(it.error.is_none()))),
    )
}

fn snapshots(page: &mut Page<'_>, sample: &Sample) -> Result {
    if let Some(counts) = &sample.snapshots {
        let unpacked = counts.committed - counts.lazy;
        let kinds = [
            ("lazy", counts.lazy),
            ("unpacked", unpacked),
            ("active", counts.active),
            ("view", counts.views),
        ];
        page.gauges(
            &Family::new("nacre_snapshots", "Snapshots in the database"),
            ["kind"],
            kinds.map(|(kind, n)| ([kind], n as u64)),
        )?;
    }
    let operations = &sample.operations;
    page.histograms(
        &Family::seconds(
            "nacre_snapshot_operation_duration",
            "How long requests of containerd took",
        ),
        ["method"],
        operations.iter().map(|it| ([it.method.as_str()], it.took)),
    )?;
    page.counters(
        &Family::new(
            "nacre_snapshot_operations",
            "Requests of containerd by what came of them",
        ),
        ["method", "result"],
        operations.iter().flat_map(|it| {
            let results = it.results.iter();
            // What never happened is left out, but each method is there.
            let shown = results.filter(|(result, n)| *n > 0 || *result == "ok");
            shown.map(|(result, n)| ([it.method.as_str(), *result], *n))
        }),
    )
}

fn admission(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let counts = &images.counts;
    page.counters(
        &Family::new(
            "nacre_images_admitted",
            "Images that were admitted and opened",
        ),
        ["class"],
        counts.admitted.iter().map(|(class, n)| ([*class], *n)),
    )?;
    page.counters(
        &Family::new(
            "nacre_images_refused",
            "Images that were not opened, by why",
        ),
        ["kind"],
        kinds(&counts.not_opened),
    )?;
    page.histogram(
        &Family::seconds(
            "nacre_image_open_duration",
            "From the request for an image to its open indexes: policy, signatures, keys, indexes",
        ),
        &counts.opened,
    )?;
    page.gauge(
        &Family::new("nacre_images_open", "Images that are open"),
        images.open as u64,
    )
}

fn mounts(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    page.gauge(
        &Family::new("nacre_mounts", "Directories that show an image"),
        images.numbers.mounts,
    )?;
    page.gauge(
        &Family::new(
            "nacre_poisoned_mounts",
            "Of these, those whose reads fail because a layer is not what its image claims",
        ),
        images.poisoned_mounts as u64,
    )?;
    page.gauge(
        &Family::new(
            "nacre_adopting_mounts",
            "Directories that an earlier daemon mounted and whose image is not open yet",
        ),
        images.adopting as u64,
    )?;
    page.counters(
        &Family::new(
            "nacre_adopted_mounts",
            "Directories that an earlier daemon mounted, by what came of opening their image",
        ),
        ["result"],
        [
            (["served"], images.counts.adopted),
            (["failed"], images.counts.adoptions_failed),
        ],
    )?;
    page.histogram(
        &Family::seconds(
            "nacre_mount_duration",
            "From the open indexes of an image to a directory that shows it",
        ),
        &images.counts.mounted,
    )
}

fn reads(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let counts = &images.counts.engines;
    let numbers = &counts.numbers;
    page.counter(
        &Family::new("nacre_reads", "Reads of files that the kernel asked for"),
        numbers.reads,
    )?;
    page.counter(
        &Family::bytes("nacre_read", "Bytes that reads were answered with"),
        numbers.read_bytes,
    )?;
    page.counters(
        &Family::new("nacre_failed_reads", "Reads answered with EIO, by why"),
        ["kind"],
        kinds(&counts.failed),
    )?;
    let took = ServedFrom::ALL.into_iter().zip(counts.took);
    page.histograms(
        &Family::seconds(
            "nacre_read_duration",
            "How long reads took, by the slowest place that a part of it came from",
        ),
        ["from"],
        took.map(|(from, times)| ([from.as_str()], times)),
    )?;
    page.counter(
        &Family::new("nacre_fetches", "Ranges of blobs that were asked for"),
        numbers.extents,
    )?;
    page.counter(
        &Family::bytes("nacre_fetched", "Bytes of these ranges"),
        numbers.extent_bytes,
    )?;
    page.counter(
        &Family::bytes(
            "nacre_prefetched",
            "Of these bytes, those of ranges that nobody had asked to read yet",
        ),
        numbers.ahead_bytes,
    )?;
    page.counter(
        &Family::bytes(
            "nacre_completed",
            "And those of ranges that were fetched so that images are whole in the store",
        ),
        numbers.rest_bytes,
    )?;
    page.counter(
        &Family::new("nacre_chunks_verified", "Chunks whose digest was right"),
        numbers.chunks,
    )?;
    page.counter(
        &Family::new("nacre_chunk_mismatches", "Chunks whose digest was wrong"),
        numbers.mismatches,
    )
}

fn store(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let (store, limits) = (&images.store, &images.limits);
    let tiers = |memory: u64, disk: u64| [(["memory"], memory), (["disk"], disk)];
    page.counters(
        &Family::new("nacre_store_hits", "Chunks served out of the store"),
        ["tier"],
        tiers(store.memory_hits, store.disk_hits),
    )?;
    page.counter(
        &Family::new(
            "nacre_store_misses",
            "Chunks that readers waited for and that were not in the store",
        ),
        store.misses,
    )?;
    page.counters(
        &Family::new("nacre_store_evictions", "Chunks dropped to make room"),
        ["tier"],
        tiers(store.memory_evictions, store.disk_evictions),
    )?;
    page.counter(
        &Family::new(
            "nacre_store_corrupt_chunks",
            "Chunks on disk that were not what they should be; fetched again",
        ),
        store.corrupt,
    )?;
    page.counter(
        &Family::new(
            "nacre_store_unkept_chunks",
            "Chunks not written because the disk was slow, full or broken",
        ),
        store.not_kept,
    )?;
    page.gauges(
        &Family::bytes("nacre_store", "Bytes in the store"),
        ["tier"],
        tiers(store.memory_bytes, store.disk_bytes),
    )?;
    page.gauges(
        &Family::bytes("nacre_store_limit", "Bytes that may be in the store"),
        ["tier"],
        tiers(limits.memory_bytes, limits.disk_bytes),
    )
}

fn confirmation(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let numbers = &images.numbers;
    page.counters(
        &Family::new(
            "nacre_confirmations",
            "Layers read whole and held against their DiffID, by what was found",
        ),
        ["result"],
        [
            (["confirmed"], numbers.confirmed),
            (["unconfirmed"], numbers.unconfirmed),
            (["poisoned"], numbers.poisoned),
        ],
    )?;
    page.gauge(
        &Family::new("nacre_confirmations_waiting", "Layers that wait for that"),
        images.waiting as u64,
    )
}

fn keys(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let keys = &images.counts.keys;
    page.counters(
        &Family::new("nacre_key_unwraps", "Keys of layers that were unwrapped"),
        ["packet"],
        keys.opened.iter().map(|(packet, n)| ([*packet], *n)),
    )?;
    page.counters(
        &Family::new(
            "nacre_key_unwrap_failures",
            "Layers whose key could not be unwrapped, by why",
        ),
        ["kind"],
        kinds(&keys.failed),
    )?;
    page.histogram(
        &Family::seconds("nacre_key_unwrap_duration", "How long unwrapping took"),
        &keys.took,
    )
}

fn registries(page: &mut Page<'_>, images: &ImagesSample) -> Result {
    let hosts = &images.hosts;
    page.counters(
        &Family::new(
            "nacre_registry_requests",
            "Requests to registries, tokens and redirects included, by what came of them",
        ),
        ["host", "code"],
        hosts.iter().flat_map(|it| {
            let answers = it.answers.iter();
            answers.map(|(class, n)| ([it.host.as_str(), class.as_str()], *n))
        }),
    )?;
    page.histograms(
        &Family::seconds(
            "nacre_registry_request_duration",
            "From a request to the head of its answer",
        ),
        ["host"],
        hosts.iter().map(|it| ([it.host.as_str()], it.took)),
    )?;
    page.counters(
        &Family::bytes("nacre_registry_received", "Bytes of answers' bodies"),
        ["host"],
        hosts
            .iter()
            .map(|it| ([it.host.as_str()], it.traffic.bytes)),
    )?;
    page.counters(
        &Family::new("nacre_registry_retries", "Requests that were tried again"),
        ["host"],
        hosts.iter().map(|it| ([it.host.as_str()], it.retries)),
    )?;
    page.counters(
        &Family::new(
            "nacre_registry_failovers",
            "Times that a host failed and the next one was asked",
        ),
        ["host"],
        hosts.iter().map(|it| ([it.host.as_str()], it.failovers)),
    )
}

/// The names are Prometheus' own, which its dashboards know.
fn process(page: &mut Page<'_>, sample: &Sample) -> Result {
    let usage = &sample.process;
    page.counter(
        &Family::seconds("process_cpu", "Processor time, user and system"),
        usage.cpu.as_secs_f64(),
    )?;
    page.gauge(
        &Family::bytes("process_resident_memory", "Bytes in memory"),
        usage.resident,
    )?;
    page.gauge(
        &Family::bytes("process_virtual_memory", "Bytes of address space"),
        usage.mapped,
    )?;
    page.gauge(
        &Family::new("process_open_fds", "Descriptors that are open"),
        usage.descriptors,
    )?;
    page.gauge(
        &Family::new("process_max_fds", "Descriptors that may be open"),
        usage.max_descriptors,
    )?;
    page.gauge(&Family::new("process_threads", "Threads"), usage.threads)?;
    let started = sample.started.duration_since(UNIX_EPOCH);
    page.gauge(
        &Family::seconds(
            "process_start_time",
            "When it started, in seconds since 1970",
        ),
        started.map_or(0.0, |it| it.as_secs_f64()),
    )
}

/// Every kind of error is shown, so that an alert on one finds it at 0 before the first.
fn kinds(counts: &KindCounts) -> impl Iterator<Item = ([&'static str; 1], u64)> + '_ {
    counts.iter().map(|(kind, n)| ([kind.as_str()], n))
}
