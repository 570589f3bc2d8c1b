//! Confidential Containers' data hub (CDH), as far as nacre asks it for resources of a key broker
//! (`api.GetResourceService`); written by hand: there are two messages.

/// Which resource is wanted.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetResourceRequest {
    /// Its whole URI, `kbs:///repository/type/tag`.
    #[prost(string, tag = "1")]
    pub resource_path: String,
}

/// The resource.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetResourceResponse {
    /// Its bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub resource: Vec<u8>,
}
