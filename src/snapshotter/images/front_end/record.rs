//! The name under which the descriptor of a mount is kept: all that a later daemon must know to
//! serve it on.
//!
//! `nacre.FORMAT.NUMBERING.DIRECTORY.MINOR.PROTOCOL.FLAGS.UNIQUE`: version of this form, version of
//! the inode numbers that the kernel remembers, name of the lower directory or `devices` for what all
//! EROFS mounts hang on, device number of the file system, its first handshake, and a number that no
//! other has: a device number is given away again at once, and what is late to forget the old file
//! system must not forget the new one.

use crate::{
    erofs,
    error::{Error, Kind, Result},
    fuse::Handshake,
    keeper::PREFIX,
    tree,
};

/// What a kept descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) what: What,
    /// The file system's device number is 0 and this.
    pub(super) minor: u32,
    pub(super) handshake: Handshake,
    pub(super) unique: u64,
}

/// What a file system shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A tree, in the lower directory of this name: manifest and layer number.
    Image(String),
    /// The devices of all trees that are mounted as EROFS.
    Devices,
}

/// Version of the form.
const FORMAT: u32 = 1;
/// In the place of a lower directory's name; no digest begins like this.
const DEVICES: &str = "devices";

// === impl Record ===

impl Record {
    pub(super) fn name(&self) -> String {
        let Record {
            what,
            minor,
            handshake,
            unique,
        } = self;
        let directory = match what {
            What::Image(directory) => directory,
            What::Devices => DEVICES,
        };
        let (numbering, protocol) = (what.numbering(), handshake.minor);
        let flags = handshake.flags;
        format!("{PREFIX}{FORMAT}.{numbering}.{directory}.{minor}.{protocol}.{flags:x}.{unique:x}")
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Unsupported` if another version of nacre made it, `Invalid` if none did.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("kept descriptor {name:?} is not one of nacre's"));
        let rest = name.strip_prefix(PREFIX).ok_or_else(invalid)?;
        let mut parts = rest.split('.');
        let mut number = || parts.next()?.parse::<u32>().ok();
        let (format, numbering) = (number().ok_or_else(invalid)?, number());
        let parts: Vec<&str> = parts.collect();
        let what = parts.first().and_then(|directory| What::parse(directory));
        let ours = what.as_ref().map_or(tree::NUMBERING, What::numbering);
        if (format, numbering) != (FORMAT, Some(ours)) {
            let message = format!("kept descriptor {name:?} is of another version of nacre");
            return Err(Error::new(Kind::Unsupported, message));
        }
        let (Some(what), [_, minor, protocol, flags, unique]) = (what, &parts[..]) else {
            return Err(invalid());
        };
        Ok(Self {
            what,
            minor: minor.parse().map_err(|_| invalid())?,
            handshake: Handshake {
                minor: protocol.parse().map_err(|_| invalid())?,
                flags: u64::from_str_radix(flags, 16).map_err(|_| invalid())?,
            },
            unique: u64::from_str_radix(unique, 16).map_err(|_| invalid())?,
        })
    }
}

// === impl What ===

impl What {
    /// Version of the numbers that the kernel remembers.
    fn numbering(&self) -> u32 {
        match self {
            What::Image(_) => tree::NUMBERING,
            What::Devices => erofs::NUMBERING,
        }
    }

    fn parse(directory: &str) -> Option<Self> {
        let named = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        match directory {
            DEVICES => Some(What::Devices),
            "" => None,
            name => name
                .bytes()
                .all(named)
                .then(|| What::Image(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::check_name;

    fn record(what: What) -> Record {
        Record {
            what,
            minor: 1_048_575,
            handshake: Handshake {
                minor: 45,
                flags: 1 << 39 | 1 << 17,
            },
            unique: u64::MAX,
        }
    }

    #[test]
    fn a_name_says_everything_and_every_keeper_takes_it() {
        let directory = format!("{}-3", "0a".repeat(32));
        let short = record(What::Image(directory.clone()));
        let text = format!(
            "nacre.1.{}.{directory}.1048575.45.8000020000.{:x}",
            tree::NUMBERING,
            u64::MAX
        );
        assert_eq!(short.name(), text);
        assert_eq!(Record::parse(&text).unwrap(), short);
        // The longest: a SHA-512, the highest layer.
        let long = record(What::Image(format!("{}-65535", "0a".repeat(64))));
        check_name(&long.name()).unwrap();
        assert_eq!(Record::parse(&long.name()).unwrap(), long);
    }

    #[test]
    fn devices_are_told_from_images() {
        let devices = record(What::Devices);
        let text = format!(
            "nacre.1.{}.devices.1048575.45.8000020000.{:x}",
            erofs::NUMBERING,
            u64::MAX
        );
        assert_eq!(devices.name(), text);
        check_name(&text).unwrap();
        assert_eq!(Record::parse(&text).unwrap(), devices);
        // No manifest's digest and layer number are called so.
        assert_eq!(What::parse("de-0"), Some(What::Image("de-0".to_owned())));
        assert_eq!(What::parse("device"), None);
    }

    #[test]
    fn other_versions_are_told_from_nonsense() {
        let of = |name: &str| Record::parse(name).unwrap_err().kind();
        for name in [
            "nacre.2.1.aa-0.1.45.0.0",
            "nacre.1.99.aa-0.1.45.0.0",
            "nacre.1.99.devices.1.45.0.0",
            "nacre.7",
        ] {
            assert_eq!(of(name), Kind::Unsupported, "{name}");
        }
        for name in [
            "",
            "nacre.",
            "nacre.x.1.aa-0.1.45.0.0",
            "stored",
            "nacre.1.1.aa-0.1.45.0",
            "nacre.1.1.aa-0.1.45.0.0.0",
            "nacre.1.1.../x.1.45.0.0",
            "nacre.1.1.device.1.45.0.0",
            "nacre.1.1.devices.1.45.0",
            "nacre.1.1.aa-0.-1.45.0.0",
            "nacre.1.1.aa-0.1.45.zz.0",
            "nacre.1.1.aa-0.1.45.0.zz",
        ] {
            assert_eq!(of(name), Kind::Invalid, "{name}");
        }
    }
}
