//! `WWW-Authenticate` (RFC 9110, section 11.6.1): which scheme a registry wants.

/// What a registry asks for. Bearer is preferred where both are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
        error: Option<String>,
    },
}

/// Longest header that is looked at: a realm with a scope is some hundred bytes.
const MAX_HEADER: usize = 8 << 10;

/// Reads all `WWW-Authenticate` values of one response; `None` if none is understood.
pub(crate) fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for value in values.filter(|value| value.len() <= MAX_HEADER) {
        for (scheme, parameters) in challenges(value) {
            let find = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = find("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: find("service"),
                        scope: find("scope"),
                        error: find("error"),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Splits a header into schemes with their parameters. A word followed by `=` is a parameter, any
/// other word begins a scheme.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text.trim_start_matches(is_separator);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            // Not a header we know how to read; what was understood before stands.
            break;
        }
        let (word, after) = rest.split_at(end);
        let value = after.trim_start();
        if let Some(value) = value.strip_prefix('=') {
            let (value, after) = read_value(value.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_owned(), value));
            }
            rest = after;
        } else {
            found.push((word.to_owned(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches(is_separator);
    }
    found
}

/// A token or a quoted string with backslash escapes, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ',' || c.is_ascii_whitespace())
            .unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn is_separator(c: char) -> bool {
    c == ',' || c.is_ascii_whitespace()
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
            error: None,
        })
    }

    #[test]
    fn reads_what_registries_send() {
        let one = |text: &str| parse([text].into_iter());
        let cases = [
            (
                r#"Bearer realm="https://a.example/token",service="r",scope="repository:x:pull,push""#,
                bearer(
                    "https://a.example/token",
                    Some("r"),
                    Some("repository:x:pull,push"),
                ),
            ),
            (
                r#"bearer  Realm = "https://a/\"t" , service=r.example"#,
                bearer("https://a/\"t", Some("r.example"), None),
            ),
            (
                r#"Basic realm="x", Bearer realm="https://a""#,
                bearer("https://a", None, None),
            ),
            (r#"BASIC realm="a, b""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Negotiate", None),
            ("Negotiate YII=, Basic realm=x", Some(Challenge::Basic)),
            (r#"Bearer service="no realm""#, None),
            (r#"Bearer realm="open"#, bearer("open", None, None)),
            ("\u{1}\"", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(one(text), want, "{text}");
        }
        assert_eq!(
            parse(["Basic realm=x", r#"Bearer realm="y""#].into_iter()),
            bearer("y", None, None)
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,200}") {
            let _ = parse([text.as_str()].into_iter());
        }
    }
}
