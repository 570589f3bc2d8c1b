//! From a reference to its repository, wherever it is.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Destination, Place, Repository, RepositoryWriter,
    archive::{Archive, ArchiveWriter},
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

    /// As [`open`](Self::open), for archives too.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Invalid` if an archive is none, `NotFound` if it has no such image.
    pub async fn open_place(&self, place: &Place) -> Result<(Arc<dyn Repository>, Location)> {
        match place {
            Place::Image(reference) => self.open(reference).await,
            Place::Archive { file, name } => {
                let archive = Archive::open(file, name.as_ref()).await?;
                let location = archive.location();
                Ok((Arc::new(archive), location))
            }
        }
    }

    /// Begins to make an image at `place`. `time` (seconds since 1970) is what files get that have no
    /// time of their own.
    ///
    /// # Errors
    /// As [`create`](Self::create); `Invalid` if an archive is there already.
    pub async fn destination(&self, place: &Place, time: u64) -> Result<Destination> {
        match place {
            Place::Image(Reference::Layout { directory, name }) => {
                let latest = || Location::Tag("latest".into());
                Destination::layout(directory, name.clone().unwrap_or_else(latest)).await
            }
            Place::Image(reference) => {
                let (writer, location) = self.create(reference).await?;
                Ok(Destination::direct(writer, location))
            }
            Place::Archive { file, name } => {
                let writer = ArchiveWriter::create(file, name.clone(), time).await?;
                let tag = name
                    .as_ref()
                    .and_then(|name| name.tag())
                    .unwrap_or("latest");
                Ok(Destination::archive(writer, Location::Tag(tag.into())))
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
