//! The wire form of [`Snapshotter`]: `containerd.services.snapshots.v1`.

use std::{collections::HashMap, time::Instant};

use futures::stream::{self, BoxStream};
use nacre_snapshotter_proto::{
    Timestamp,
    containerd::{
        services::snapshots::v1::{self as api, snapshots_server::Snapshots},
        types,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Filters, Labels, Method, Mount, Snapshotter,
    error::SnapshotError,
    metadata::{Info, Kind},
};

/// Snapshots in one message of a list, as many as containerd's own server sends.
const LIST_BLOCK: usize = 100;

/// Answers containerd.
#[derive(Clone, Debug)]
pub struct SnapshotsService {
    snapshotter: Snapshotter,
}

// === impl SnapshotsService ===

impl SnapshotsService {
    /// Serves `snapshotter`.
    #[must_use]
    pub fn new(snapshotter: Snapshotter) -> Self {
        Self { snapshotter }
    }

    /// Runs an operation, counted.
    async fn run<T>(
        &self,
        method: Method,
        key: &str,
        operation: impl Future<Output = Result<T, SnapshotError>>,
    ) -> Result<T, Status> {
        let begin = Instant::now();
        let result = operation.await;
        self.snapshotter
            .operations()
            .told(method, key, begin, result)
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let labels = labels(request.labels);
        let prepared = self
            .snapshotter
            .prepare(&request.key, &request.parent, labels);
        let mounts = self.run(Method::Prepare, &request.key, prepared).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let request = request.into_inner();
        let labels = labels(request.labels);
        let viewed = self.snapshotter.view(&request.key, &request.parent, labels);
        let mounts = self.run(Method::View, &request.key, viewed).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.snapshotter.mounts(&key);
        let mounts = self.run(Method::Mounts, &key, mounts).await?;
        let mounts = mounts.into_iter().map(mount).collect();
        Ok(Response::new(api::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest {
            name, key, parent, ..
        } = request.get_ref().clone();
        let labels = labels(request.into_inner().labels);
        let committed = self.snapshotter.commit(&name, &key, &parent, labels);
        let committed = self.run(Method::Commit, &key, committed).await;
        committed.map(Response::new)
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let removed = self.snapshotter.remove(&key);
        let removed = self.run(Method::Remove, &key, removed).await;
        removed.map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let found = self.snapshotter.stat(&key);
        let found = self.run(Method::Stat, &key, found).await?;
        let info = Some(info(found));
        Ok(Response::new(api::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let wanted = request
            .info
            .ok_or_else(|| Status::invalid_argument("update without info"))?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let labels = labels(wanted.labels);
        let updated = self.snapshotter.update(&wanted.name, labels, paths);
        let updated = self.run(Method::Update, &wanted.name, updated).await?;
        let info = Some(info(updated));
        Ok(Response::new(api::UpdateSnapshotResponse { info }))
    }

    type ListStream = BoxStream<'static, Result<api::ListSnapshotsResponse, Status>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)?;
        let all = self.snapshotter.list(filters);
        let all = self.run(Method::List, "", all).await?;
        let infos: Vec<_> = all.into_iter().map(info).collect();
        let blocks: Vec<_> = infos
            .chunks(LIST_BLOCK)
            .map(|block| Ok(api::ListSnapshotsResponse { info: block.into() }))
            .collect();
        Ok(Response::new(Box::pin(stream::iter(blocks))))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.snapshotter.usage(&key);
        let usage = self.run(Method::Usage, &key, usage).await?;
        Ok(Response::new(api::UsageResponse {
            size: i64::try_from(usage.bytes).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        }))
    }

    async fn cleanup(
        &self,
        _request: Request<api::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        let cleaned = self.snapshotter.cleanup();
        let cleaned = self.run(Method::Cleanup, "", cleaned).await;
        cleaned.map(Response::new)
    }
}

fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn mount(mount: Mount) -> types::Mount {
    types::Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    }
}

fn info(info: Info) -> api::Info {
    let Info { name, record } = info;
    let kind = match record.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name,
        parent: record.parent,
        kind: kind.into(),
        created_at: Some(Timestamp::from(record.created)),
        updated_at: Some(Timestamp::from(record.updated)),
        labels: record.labels.into_iter().collect(),
    }
}
