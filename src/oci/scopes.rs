//! The names under which files that configure images by scope know a reference
//! (containers-policy.json(5), containers-registries.d(5)).

use super::{Location, RegistryReference};

// === impl RegistryReference ===

impl RegistryReference {
    /// Full reference, repository, parents, host with port, wildcards without port, everything: most
    /// specific first.
    ///
    /// containers/image refuses a reference with both tag and digest; podman drops the tag before it
    /// asks. Here the digest form is looked up, since the digest is what is fetched.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let repository = self.repository();
        let full = match self.location() {
            Location::Digest(digest) => format!("{repository}@{digest}"),
            Location::Tag(tag) => format!("{repository}:{tag}"),
        };
        let mut names = vec![full];
        let mut parent = repository.as_str();
        names.push(parent.to_owned());
        while let Some((shorter, _)) = parent.rsplit_once('/') {
            parent = shorter;
            names.push(parent.to_owned());
        }
        let mut domain = parent.split_once(':').map_or(parent, |(host, _)| host);
        while let Some((_, rest)) = domain.split_once('.') {
            domain = rest;
            names.push(format!("*.{domain}"));
        }
        names.push(String::new());
        names
    }
}
