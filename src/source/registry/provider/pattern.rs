//! Patterns of images as the kubelet's `matchImages` has them: `*.registry.example:5000/team`.
//!
//! The parts of a host between dots are compared one by one, with `*` and `?` in them; a port must
//! be the same. A path is a beginning of the image's path. Here it ends at a `/`, so that
//! `host/team` is not taken for `host/teammate`, which the kubelet does.

/// Whether an image (`host[:port]/path`) fits a pattern.
pub(super) fn matches(pattern: &str, image: &str) -> bool {
    let ((host, port, path), (own_host, own_port, own_path)) = (parts(pattern), parts(image));
    let (labels, own_labels): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), own_host.split('.').collect());
    port == own_port
        && labels.len() == own_labels.len()
        && labels
            .iter()
            .zip(own_labels)
            .all(|(glob, label)| glob_matches(glob.as_bytes(), label.as_bytes()))
        && own_path
            .strip_prefix(path)
            .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Whether a pattern is one, in this reading.
pub(super) fn is_valid(pattern: &str) -> bool {
    let (host, port, path) = parts(pattern);
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\', '@', ' ']);
    !host.is_empty()
        && !host.contains(['[', ']', '\\', '@', ' '])
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && plain(path)
}

/// Host, port, path without a slash at either end. A scheme is passed over.
fn parts(text: &str) -> (&str, Option<&str>, &str) {
    let bare = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let (authority, path) = bare.split_once('/').unwrap_or((bare, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    (host, port, path.trim_end_matches('/'))
}

/// `*` is any run of characters, `?` any one. Goes back to the last star only, so it takes at most
/// the product of both lengths.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&b) if b == b'?' || b == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    star = Some((star_at, star_from + 1));
                    at = star_at + 1;
                    from = star_from + 1;
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        for (pattern, image, want) in [
            ("r.example", "r.example/a", true),
            ("r.example", "evil-r.example/a", false),
            ("r.example", "r.example.org/a", false),
            ("*.r.example", "a.r.example/x", true),
            ("*.r.example", "a.b.r.example/x", false),
            ("*.r.example", "r.example/x", false),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "1.dkr.ecr.eu.amazonaws.com/x",
                true,
            ),
            ("reg*.io", "registry.io/x", true),
            ("r?g.io", "rag.io/x", true),
            ("r.example:5000", "r.example:5000/a", true),
            ("r.example", "r.example:5000/a", false),
            ("*:5000", "r:5000/a", true),
            ("r.example/team", "r.example/team/app", true),
            ("r.example/team/", "r.example/team/app", true),
            ("r.example/team", "r.example/team", true),
            ("r.example/team", "r.example/teammate/app", false),
            ("https://r.example/team", "r.example/team/app", true),
            ("*", "r/x", true),
            ("a*b*c", "axxbyyc/x", true),
            ("a*b*c", "axxbyy/x", false),
        ] {
            assert_eq!(matches(pattern, image), want, "{pattern} {image}");
        }
    }

    #[test]
    fn patterns() {
        for good in ["*.r.example", "r.example:5000/a", "docker.io"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            "r.example:*",
            "r.example/*",
            "[ab].example",
            "r.example:/x",
            "a b",
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
