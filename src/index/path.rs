//! Entry names as archives write them (`./a`, `/a`, `a/`), cleaned to [`Entry::path`](super::Entry).

use super::limits::{MAX_DEPTH, MAX_NAME, MAX_PATH};

/// `name` without leading `/`, `.` components and doubled or final slashes; empty for the root.
///
/// # Errors
/// What is wrong with it: `..`, a 0 byte, or longer or deeper than Linux or
/// [`limits`](super::limits) allow.
pub fn clean(name: &[u8]) -> Result<Box<[u8]>, String> {
    if name.len() > MAX_PATH {
        return Err(format!(
            "a path of {} bytes, at most {MAX_PATH}",
            name.len()
        ));
    }
    if name.contains(&0) {
        return Err("a path with a 0 byte".into());
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
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
        depth += 1;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if depth > MAX_DEPTH {
        return Err(format!("a path {depth} deep, at most {MAX_DEPTH}"));
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
        let long = "x".repeat(256);
        let deep = "a/".repeat(600);
        for bad in [
            "..",
            "../a",
            "a/../b",
            "a\0b",
            &long,
            &"a/".repeat(3000),
            &deep,
        ] {
            assert!(clean(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
