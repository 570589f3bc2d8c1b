//! One entry of a table of contents as its JSON says it: not checked, and gone once it has been added
//! to the [`Builder`](super::builder::Builder).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::builder::Builder;

/// An entry in the JSON of either dialect. Numbers are unsigned where a negative one has no meaning,
/// so that one is refused while parsing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct JsonEntry<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    /// Ours: the name's bytes where they are not UTF-8, base64.
    #[serde(borrow)]
    pub(super) name_bytes: Option<Cow<'a, str>>,
    pub(super) size: u64,
    #[serde(borrow)]
    pub(super) modtime: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) link_name: Cow<'a, str>,
    /// Ours: the link target's bytes where they are not UTF-8, base64.
    #[serde(borrow)]
    pub(super) link_name_bytes: Option<Cow<'a, str>>,
    pub(super) mode: i64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) dev_major: u32,
    pub(super) dev_minor: u32,
    #[serde(borrow, deserialize_with = "xattrs")]
    pub(super) xattrs: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    pub(super) offset: u64,
    pub(super) end_offset: u64,
    pub(super) inner_offset: u64,
    #[serde(borrow)]
    pub(super) digest: Cow<'a, str>,
    pub(super) chunk_offset: u64,
    pub(super) chunk_size: u64,
    #[serde(borrow)]
    pub(super) chunk_digest: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) chunk_type: Cow<'a, str>,
}

/// Attributes of one entry before their count is refused; Linux' list of names holds fewer.
const MAX_XATTRS: usize = 32 << 10;

type JsonXattrs<'a> = Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>;

fn xattrs<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<JsonXattrs<'a>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = JsonXattrs<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of extended attributes")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((Text(name), value)) = map.next_entry::<Text<'_>, Option<Text<'_>>>()? {
                if pairs.len() == MAX_XATTRS {
                    return Err(de::Error::custom("too many extended attributes"));
                }
                pairs.push((name, value.map(|text| text.0)));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_any(Pairs)
}

/// A string that is borrowed from the JSON unless it has escapes (serde's own `Cow` always copies).
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The document: hands every entry to the builder as soon as it is parsed, so that no more than one
/// of them is in memory in this fat form.
pub(super) struct Document<'b>(pub(super) &'b mut Builder);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut version, mut entries) = (None, false);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "version" if version.is_none() => version = Some(map.next_value::<u64>()?),
                "entries" if !entries => {
                    entries = true;
                    map.next_value_seed(Entries(self.0))?;
                }
                "version" | "entries" => {
                    return Err(de::Error::custom(format!("{key} is there twice")));
                }
                _ => {
                    map.next_value::<de::IgnoredAny>()?;
                }
            }
        }
        match version {
            Some(1) if entries => Ok(()),
            Some(1) => Err(de::Error::custom("it has no entries")),
            Some(other) => Err(de::Error::custom(format!("version {other} is not known"))),
            None => Err(de::Error::custom("it has no version")),
        }
    }
}

struct Entries<'b>(&'b mut Builder);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // `null` is what Go writes for an empty list.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<JsonEntry<'de>>()? {
            self.0.add(&entry).map_err(de::Error::custom)?;
        }
        Ok(())
    }
}
