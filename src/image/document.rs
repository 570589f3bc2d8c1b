//! Documents that are changed in places: what is not known of them stays.

use serde_json::Value;

use crate::{
    error::{Error, Result},
    oci::{Digest, Location, RawManifest},
};

pub(super) type Object = serde_json::Map<String, Value>;

pub(super) fn object(bytes: &[u8], digest: &Digest) -> Result<Object> {
    serde_json::from_slice(bytes).map_err(|e| Error::invalid(format!("document {digest}: {e}")))
}

pub(super) fn set(document: &mut Object, key: &str, value: Value) {
    document.insert(key.to_owned(), value);
}

pub(super) fn to_value<T: serde::Serialize + ?Sized>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal("document").with_source(e))
}

pub(super) fn encode(media_type: &str, document: &Object) -> Result<RawManifest> {
    let bytes =
        serde_json::to_vec(document).map_err(|e| Error::internal("document").with_source(e))?;
    Ok(RawManifest::new(media_type, bytes.into()))
}

/// A destination that is named by digest is only for what has that digest.
pub(super) fn check_destination(location: &Location, made: &RawManifest) -> Result<()> {
    match location {
        Location::Digest(digest) if *digest != made.digest => Err(Error::invalid(format!(
            "destination {digest}: the image that was made is {}",
            made.digest
        ))
        .with_hint("give a tag, or no name")),
        _ => Ok(()),
    }
}
