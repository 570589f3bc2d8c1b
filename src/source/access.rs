//! From a reference to its repository, wherever it is.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Repository, RepositoryWriter,
    layout::{Layout, LayoutWriter},
    registry,
};
use crate::{
    error::Result,
    oci::{Location, Reference},
};

/// Opens and creates images by reference; the registry client is made when the first one is needed
/// and shared from then on.
#[derive(Debug, Default)]
pub struct Access {
    options: registry::Options,
    client: Mutex<Option<Arc<registry::Client>>>,
}

// === impl Access ===

impl Access {
    /// Reaches registries with these options.
    #[must_use]
    pub fn new(options: registry::Options) -> Self {
        Self {
            options,
            client: Mutex::default(),
        }
    }

    /// The repository of `reference`, and what to ask it for. A layout without a name stands for
    /// its only image.
    ///
    /// # Errors
    /// `NotFound` if a layout is not there, `Invalid` if it has several images and none is named.
    pub async fn open(&self, reference: &Reference) -> Result<(Arc<dyn Repository>, Location)> {
        match reference {
            Reference::Registry(reference) => {
                let repository = self.client()?.repository(reference)?;
                Ok((repository, reference.location()))
            }
            Reference::Layout { directory, name } => {
                let layout = Layout::open(directory).await?;
                let location = match name {
                    Some(name) => name.clone(),
                    None => layout.only_image().await?,
                };
                Ok((Arc::new(layout), location))
            }
        }
    }

    /// A writer to where `reference` points, and the name to write to. A layout directory is made
    /// if it is not there; without a name the tag is `latest`.
    ///
    /// # Errors
    /// `Io` if the layout cannot be made, `Invalid` if the directory is something else.
    pub async fn create(
        &self,
        reference: &Reference,
    ) -> Result<(Arc<dyn RepositoryWriter>, Location)> {
        match reference {
            Reference::Registry(reference) => {
                let writer = self.client()?.writer(reference)?;
                Ok((writer, reference.location()))
            }
            Reference::Layout { directory, name } => {
                let writer = LayoutWriter::create(directory).await?;
                let latest = || Location::Tag("latest".into());
                Ok((Arc::new(writer), name.clone().unwrap_or_else(latest)))
            }
        }
    }

    /// The client of all registries, if one was needed so far.
    #[must_use]
    pub fn known_client(&self) -> Option<Arc<registry::Client>> {
        let held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// The client of all registries.
    ///
    /// # Errors
    /// As [`registry::Client::new`].
    pub fn client(&self) -> Result<Arc<registry::Client>> {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*held {
            return Ok(Arc::clone(client));
        }
        let client = registry::Client::new(self.options.clone())?;
        *held = Some(Arc::clone(&client));
        Ok(client)
    }
}
