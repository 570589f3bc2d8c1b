//! Lookup tables: which reference an image has for a provider, a variant and a region.

use std::fmt;

use serde::Serialize;

use super::name::{Form, Name};
use crate::{
    error::{Error, Result},
    trust::json::{self, Fault, Node},
};

/// A lookup table. It is not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    entries: Vec<Entry>,
}

/// One image of a lookup table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Whose machines it is for, in lower case.
    pub provider: String,
    /// By what it attests itself; tables of the first form leave it to the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Where it lies, if it lies in several places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What it is called there.
    pub reference: String,
}

/// Which image of a table is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whose machines; upper and lower case are the same.
    pub provider: String,
    /// By what it attests itself. May be left out if there is but one.
    pub variant: Option<String>,
    /// Where it lies. May be left out if there is but one.
    pub region: Option<String>,
}

/// Most images in one table; real ones have some dozens.
const MAX_ENTRIES: usize = 10_000;
/// Longest reference and other text.
const MAX_TEXT: usize = 4096;
/// Providers of the first form. There keys are regions for the first, variants for the others.
const PROVIDERS: [&str; 5] = [REGIONAL, "azure", "gcp", "openstack", "qemu"];
const REGIONAL: &str = "aws";

// === impl Info ===

impl Info {
    /// Reads the table of `name`. Fields that are not known are no obstacle: tables may be extended.
    ///
    /// # Errors
    /// Why it is no table, or not of this image.
    pub fn parse(bytes: &[u8], form: Form, name: &Name) -> Result<Self, String> {
        let read = || -> Result<Self, Fault> {
            let root = json::parse(bytes)?;
            is_about(&root, name)?;
            let mut entries = Vec::new();
            match form {
                Form::V2 => {
                    for item in root.want("list")?.array()? {
                        entries.push(Entry::of(item)?);
                    }
                }
                Form::V1 => {
                    for provider in PROVIDERS {
                        let Some(map) = root.get(provider) else {
                            continue;
                        };
                        for member in map.object()? {
                            let key = Some(member.key.clone());
                            let (variant, region) = match provider {
                                REGIONAL => (None, key),
                                _ => (key, None),
                            };
                            entries.push(Entry {
                                provider: provider.to_owned(),
                                variant,
                                region,
                                reference: plain(&member.node)?.to_owned(),
                            });
                        }
                    }
                }
            }
            if entries.is_empty() || entries.len() > MAX_ENTRIES {
                return Err(root.fault(format!("{} images", entries.len())));
            }
            Ok(Self { entries })
        };
        read().map_err(|fault| fault.to_string())
    }

    /// The one image that is wanted.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Invalid` if there are several; both say what there is.
    pub fn pick(&self, wanted: &Wanted) -> Result<&Entry> {
        let fits = |it: &&Entry| wanted.fits(it);
        let mut found: Vec<&Entry> = self.entries.iter().filter(fits).collect();
        // An image that is the same everywhere stands behind those of one place.
        if wanted.region.is_some() && found.iter().any(|it| it.region.is_some()) {
            found.retain(|it| it.region.is_some());
        }
        let listed = |entries: &[&Entry]| {
            let mut names: Vec<String> = entries.iter().map(ToString::to_string).collect();
            names.sort();
            names.dedup();
            names.join("; ")
        };
        match found[..] {
            [one] => Ok(one),
            [] => {
                let all: Vec<&Entry> = self.entries.iter().collect();
                Err(Error::not_found(format!("no image for {wanted}"))
                    .with_hint(format!("there are: {}", listed(&all))))
            }
            _ => Err(Error::invalid(format!(
                "{} images for {wanted}: {}",
                found.len(),
                listed(&found)
            ))
            .with_hint("give --variant and --region")),
        }
    }
}

// === impl Entry ===

impl Entry {
    fn of(node: &Node) -> Result<Self, Fault> {
        let region = node.get("region").map(plain).transpose()?;
        Ok(Self {
            provider: plain(node.want("csp")?)?.to_ascii_lowercase(),
            variant: Some(plain(node.want("attestationVariant")?)?.to_owned()),
            region: region.filter(|it| !it.is_empty()).map(ToOwned::to_owned),
            reference: plain(node.want("reference")?)?.to_owned(),
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.provider, &self.variant, &self.region)
    }
}

// === impl Wanted ===

impl Wanted {
    fn fits(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, is: &Option<String>| match (wanted, is) {
            (Some(wanted), Some(is)) => wanted == is,
            _ => true,
        };
        self.provider.eq_ignore_ascii_case(&entry.provider)
            && same(&self.variant, &entry.variant)
            && same(&self.region, &entry.region)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.provider, &self.variant, &self.region)
    }
}

fn show(
    f: &mut fmt::Formatter<'_>,
    provider: &str,
    variant: &Option<String>,
    region: &Option<String>,
) -> fmt::Result {
    write!(f, "provider {provider}")?;
    if let Some(variant) = variant {
        write!(f, ", variant {variant}")?;
    }
    match region {
        Some(region) => write!(f, ", region {region}"),
        None => Ok(()),
    }
}

/// Whether a document says that it is about `name`.
pub(super) fn is_about(root: &Node, name: &Name) -> Result<(), Fault> {
    for (field, want) in [
        ("version", name.version()),
        ("ref", name.reference()),
        ("stream", name.stream()),
    ] {
        let node = root.want(field)?;
        let is = node.string()?;
        if is != want {
            return Err(node.fault(format!("{field} is {is:?}, want {want:?}")));
        }
    }
    Ok(())
}

/// A text that can be printed in one line and given to a program as one argument.
pub(super) fn plain(node: &Node) -> Result<&str, Fault> {
    let text = node.string()?;
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if text.len() > MAX_TEXT || text.chars().any(odd) {
        return Err(node.fault("white space or control characters, or too long"));
    }
    Ok(text)
}
