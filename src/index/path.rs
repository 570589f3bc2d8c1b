//! Entry names as archives write them (`./a`, `/a`, `a/`), cleaned to [`Entry::path`](super::Entry).

use super::limits::{MAX_NAME, MAX_PATH};

/// `name` without leading `/`, `.` components and doubled or final slashes; empty for the root.
///
/// # Errors
/// What is wrong with it: `..`, a 0 byte, or longer than Linux allows.
pub fn clean(name: &[u8]) -> Result<Box<[u8]>, String> {
    if name.contains(&0) {
        return Err("a path with a 0 byte".into());
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("a path with ..".into()),
            _ if part.len() > MAX_NAME => {
                return Err(format!(
                    "a name of {} bytes, at most {MAX_NAME}",
                    part.len()
                ));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > MAX_PATH {
        return Err(format!(
            "a path of {} bytes, at most {MAX_PATH}",
            path.len()
        ));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_and_refuses() {
        for (name, path) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            ("./a", "a"),
            ("/a", "a"),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(&*clean(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        assert_eq!(*clean(b"\xff/...").unwrap(), *b"\xff/...");
        assert!(clean("./".repeat(3000).as_bytes()).is_ok());
        let long = "x".repeat(256);
        for bad in ["..", "../a", "a/../b", "a\0b", &long, &"a/".repeat(3000)] {
            assert!(clean(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
