//! Generated protobuf messages and gRPC stubs; `scripts/regenerate-proto` makes them anew.
