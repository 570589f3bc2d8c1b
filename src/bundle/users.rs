//! The user of a container: `user[:group]` by name or number, looked up in the image's own
//! `/etc/passwd` and `/etc/group`.

use std::{io::Read, path::Path};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::error::{Error, Result};

/// Who the process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups, from `/etc/group`.
    pub(super) groups: Vec<u32>,
    /// Home directory, if the user is known.
    pub(super) home: Option<String>,
}

/// Largest `passwd` or `group` that is read; the largest known have 100,000 lines.
const MAX_FILE: u64 = 16 << 20;

/// Looks a configuration's user up in the root file system. As container engines do: nothing means
/// root; a number need not be in the file; further groups only where no group is given.
pub(super) fn resolve(user: &str, rootfs: &Path) -> Result<User> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let unknown = |what: &str, name: &str, file: &str| {
        Error::invalid(format!(
            "user {user:?}: {what} {name:?} is not in the image's {file}"
        ))
    };

    let passwd = read(rootfs, "etc/passwd")?;
    let number = name.parse::<u32>().ok();
    let line = passwd.lines().map(fields).find(|line| {
        line.len() >= 4 && (line[0] == name || number.is_some() && line[2].parse().ok() == number)
    });
    let mut found = User::default();
    let mut login = None;
    match (line, number) {
        (Some(line), _) => {
            let id = |field: &str| {
                field
                    .parse()
                    .map_err(|_| unknown("user", name, "/etc/passwd"))
            };
            found.uid = id(line[2])?;
            found.gid = id(line[3])?;
            found.home = line.get(5).map(|home| (*home).to_owned());
            login = Some(line[0]);
        }
        (None, Some(uid)) => found.uid = uid,
        (None, None) => return Err(unknown("user", name, "/etc/passwd")),
    }

    let groups = read(rootfs, "etc/group")?;
    let mut groups = groups.lines().map(fields).filter(|line| line.len() >= 3);
    match group {
        Some(group) => {
            let by_name = groups.find(|line| line[0] == group);
            found.gid = by_name
                .and_then(|line| line[2].parse().ok())
                .or_else(|| group.parse().ok())
                .ok_or_else(|| unknown("group", group, "/etc/group"))?;
        }
        None => {
            if let Some(login) = login {
                found.groups = groups
                    .filter(|line| {
                        line.get(3)
                            .is_some_and(|members| members.split(',').any(|m| m.trim() == login))
                    })
                    .filter_map(|line| line[2].parse().ok())
                    .collect();
            }
        }
    }
    Ok(found)
}

fn fields(line: &str) -> Vec<&str> {
    line.trim_end().split(':').collect()
}

/// A file of the image, empty if it has none; links stay inside the root.
fn read(rootfs: &Path, path: &str) -> Result<String> {
    let open = || {
        let root = fs::open(
            rootfs,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // A fifo in place of the file must not hold us up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(root, path, flags, Mode::empty(), resolve)
    };
    let failed = |error| Error::io(format!("the image's /{path}"), error);
    let file = match open() {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("the image's /{path}: not a file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join("etc").join(name), text).unwrap();
        };
        write(
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:34::/var/www:/x\n77:x:5:6::/seven:\n",
        );
        write(
            "group",
            "root:x:0:\nwww:x:34:\naudio:x:29:www,root\nvideo:x:44:other, www\n",
        );
        root
    }

    #[test]
    fn users_by_name_and_number() {
        let root = image();
        let resolved = |user: &str| {
            let user = resolve(user, root.path()).unwrap();
            (user.uid, user.gid, user.groups)
        };
        assert_eq!(resolved(""), (0, 0, vec![29]));
        assert_eq!(resolved("www"), (33, 34, vec![29, 44]));
        assert_eq!(resolved("33"), (33, 34, vec![29, 44]));
        assert_eq!(resolved("www:audio"), (33, 29, vec![]));
        assert_eq!(resolved("www:4711"), (33, 4711, vec![]));
        assert_eq!(resolved(":44"), (0, 44, vec![]));
        assert_eq!(resolved("4711"), (4711, 0, vec![]));
        // A name of digits is a name first.
        assert_eq!(resolved("77"), (5, 6, vec![]));
        assert_eq!(
            resolve("www", root.path()).unwrap().home.unwrap(),
            "/var/www"
        );
        for bad in ["nobody", "www:nobody", "-1", "4294967296"] {
            assert!(resolve(bad, root.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_out_of_the_image_is_not_followed() {
        let root = image();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "evil:x:0:0::/:\n").unwrap();
        let passwd = root.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink(outside.path(), &passwd).unwrap();
        assert!(resolve("evil", root.path()).is_err());
        assert_eq!(resolve("0", root.path()).unwrap(), User::default());
    }
}
