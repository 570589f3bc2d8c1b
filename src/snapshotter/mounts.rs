//! The mounts that make up a snapshot, as containerd's overlay snapshotter builds them: a bind mount
//! where one directory is enough, otherwise one overlay.

use std::path::{Path, PathBuf};

use super::{metadata::Kind, storage::Storage};

/// One mount, in the words of `mount(8)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// Directory of a bind mount.
    pub source: String,
    /// Options, one each.
    pub options: Vec<String>,
}

/// Options that every overlay on this machine needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayOptions(Vec<String>);

// === impl OverlayOptions ===

impl OverlayOptions {
    /// Asks the kernel: `index=off`, because containers' upper directories come and go on the same
    /// lower ones; `userxattr` inside a user namespace, where `trusted.` attributes are refused.
    #[must_use]
    pub fn detect() -> Self {
        let index = Path::new("/sys/module/overlay/parameters/index").exists();
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::new(index, in_user_namespace(&map))
    }

    fn new(index: bool, user_namespace: bool) -> Self {
        let userxattr = user_namespace.then(|| "userxattr".to_owned());
        let index = index.then(|| "index=off".to_owned());
        Self(userxattr.into_iter().chain(index).collect())
    }
}

/// The first namespace maps all user ids onto themselves.
fn in_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<_> = uid_map.split_ascii_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

/// Mounts of snapshot `id` over `lowers`, the nearest first.
pub(super) fn mounts(
    storage: &Storage,
    kind: Kind,
    id: u64,
    lowers: &[PathBuf],
    options: &OverlayOptions,
) -> Vec<Mount> {
    let upper = storage.upper(id);
    let mount = match (kind, lowers) {
        (Kind::Active, []) => bind(&upper, "rw"),
        (_, []) => bind(&upper, "ro"),
        (Kind::Active, _) => {
            let own = [
                format!("workdir={}", storage.work(id).display()),
                format!("upperdir={}", upper.display()),
            ];
            overlay(own.into(), lowers, options)
        }
        (_, [only]) => bind(only, "ro"),
        (_, _) => overlay(Vec::new(), lowers, options),
    };
    vec![mount]
}

fn bind(directory: &Path, access: &str) -> Mount {
    Mount {
        kind: "bind",
        source: directory.display().to_string(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn overlay(mut options: Vec<String>, lowers: &[PathBuf], more: &OverlayOptions) -> Mount {
    let lowers: Vec<_> = lowers.iter().map(|it| it.display().to_string()).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    options.extend(more.0.iter().cloned());
    Mount {
        kind: "overlay",
        source: "overlay".to_owned(),
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_is_bound_and_more_are_overlaid() {
        let storage = Storage::at("/r".into());
        let lowers: Vec<PathBuf> = vec!["/r/snapshots/2/fs".into(), "/lazy".into()];
        let options = OverlayOptions::new(true, false);
        let of = |kind, lowers| {
            let mount = mounts(&storage, kind, 7, lowers, &options).remove(0);
            format!(
                "{} {} {}",
                mount.kind,
                mount.source,
                mount.options.join(",")
            )
        };
        let own = "workdir=/r/snapshots/7/work,upperdir=/r/snapshots/7/fs";
        let table = [
            (
                Kind::Active,
                0,
                "bind /r/snapshots/7/fs rw,rbind".to_owned(),
            ),
            (Kind::View, 0, "bind /r/snapshots/7/fs ro,rbind".to_owned()),
            (Kind::View, 1, "bind /r/snapshots/2/fs ro,rbind".to_owned()),
            (
                Kind::View,
                2,
                "overlay overlay lowerdir=/r/snapshots/2/fs:/lazy,index=off".to_owned(),
            ),
            (
                Kind::Active,
                1,
                format!("overlay overlay {own},lowerdir=/r/snapshots/2/fs,index=off"),
            ),
            (
                Kind::Active,
                2,
                format!("overlay overlay {own},lowerdir=/r/snapshots/2/fs:/lazy,index=off"),
            ),
        ];
        for (kind, count, wanted) in table {
            assert_eq!(of(kind, &lowers[..count]), wanted);
        }
    }

    #[test]
    fn options_of_this_machine() {
        assert!(!in_user_namespace("         0          0 4294967295\n"));
        assert!(in_user_namespace("0 100000 65536\n"));
        assert_eq!(
            OverlayOptions::new(true, true).0,
            ["userxattr".to_owned(), "index=off".to_owned()]
        );
        assert_eq!(OverlayOptions::new(false, false).0, Vec::<String>::new());
    }
}
