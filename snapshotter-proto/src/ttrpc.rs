//! The messages of ttrpc (`github.com/containerd/ttrpc`), written by hand: there are four.

/// What a client sends; the frame's type is 1.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Request {
    /// `package.Service`
    #[prost(string, tag = "1")]
    pub service: String,
    /// Name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The method's message.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
    /// How long the client waits; 0 for ever.
    #[prost(int64, tag = "4")]
    pub timeout_nano: i64,
    /// Whatever else the client says.
    #[prost(message, repeated, tag = "5")]
    pub metadata: Vec<KeyValue>,
}

/// What a server answers; the frame's type is 2.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Response {
    /// Missing, or with code 0, if all went well.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The method's answer.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// `google.rpc.Status`, without its details.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Status {
    /// As gRPC has them.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// One piece of metadata.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}
