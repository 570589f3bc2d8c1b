//! containerd's filters: `kind==active,labels."a/b"~=/^x/`; selectors joined by commas must all match,
//! and of several filters one is enough.
//!
//! The syntax is that of containerd's `pkg/filters`, with its corners: values may be quoted with `"`,
//! patterns also with `/` or `|`; a missing field equals nothing and differs from everything.

use regex::Regex;

use super::error::{Result, SnapshotError};

/// Filters of one request.
#[derive(Clone, Debug)]
pub struct Filters(Vec<Filter>);

/// Something with fields to filter by.
pub trait Fields {
    /// The value at a path, if it is there.
    fn field(&self, path: &[String]) -> Option<String>;
}

#[derive(Clone, Debug)]
struct Filter(Vec<Selector>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    /// `None` is a pattern that does not compile: it matches nothing, as in containerd.
    Matches(Option<Regex>),
}

/// Memory for one compiled pattern; containerd's own clients send short ones.
const MAX_PATTERN_BYTES: usize = 1 << 20;

// === impl Filters ===

impl Filters {
    /// Parses all filters of a request; none match everything.
    ///
    /// # Errors
    /// `InvalidArgument` with the filter and the place in it.
    pub fn parse(filters: &[String]) -> Result<Self> {
        let parsed = filters.iter().map(|text| Filter::parse(text));
        parsed.collect::<Result<_>>().map(Self)
    }

    /// Whether `fields` pass.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        let all = |filter: &Filter| filter.0.iter().all(|it| it.matches(fields));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

// === impl Filter ===

impl Filter {
    fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut parser = Parser { text, at: 0 };
        let mut selectors = vec![parser.selector()?];
        loop {
            match parser.peek() {
                None => return Ok(Self(selectors)),
                Some(',') => parser.at += 1,
                Some(other) => return Err(parser.error(&format!("unexpected {other:?}"))),
            }
            selectors.push(parser.selector()?);
        }
    }
}

// === impl Selector ===

impl Selector {
    fn matches(&self, fields: &impl Fields) -> bool {
        let value = fields.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            // An absent field counts as the empty text here, and for patterns.
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(None) => false,
            Test::Matches(Some(pattern)) => pattern.is_match(&value.unwrap_or_default()),
        }
    }
}

/// Reads one filter from left to right.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

// === impl Parser ===

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        let test = match self.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        let field = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric());
        match field.is_empty() {
            true => Err(self.error("want a field or a quoted text")),
            false => Ok(field.to_owned()),
        }
    }

    fn test(&mut self) -> Result<Test> {
        self.skip_space();
        let start = self.at;
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~')).to_owned();
        match operator.as_str() {
            "==" => self.value(false).map(Test::Equal),
            "!=" => self.value(false).map(Test::NotEqual),
            "~=" => {
                let pattern = self.value(true)?;
                let mut builder = regex::RegexBuilder::new(&pattern);
                let regex = builder.size_limit(MAX_PATTERN_BYTES).build();
                if let Err(error) = &regex {
                    tracing::warn!(pattern, %error, "pattern of a filter matches nothing");
                }
                Ok(Test::Matches(regex.ok()))
            }
            _ => {
                self.at = start;
                Err(self.error("want an operator: ==, != or ~="))
            }
        }
    }

    fn value(&mut self, pattern: bool) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some(quote @ '"') => self.quoted(quote),
            Some(quote @ ('/' | '|')) if pattern => self.quoted(quote),
            None | Some(',' | '.' | '=' | '!' | '~' | '/' | '|') => {
                Err(self.error("want a value or a quoted text"))
            }
            Some(_) => {
                let plain = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
                Ok(self.take_while(plain).to_owned())
            }
        }
    }

    /// Text between quotes, with the escapes of a Go string.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                None | Some('\n') => {
                    self.at = start;
                    return Err(self.error("quoted text does not end"));
                }
                Some(c) if c == quote => break,
                Some('\\') => self.escape(quote, &mut bytes)?,
                Some(c) => push(&mut bytes, c),
            }
        }
        String::from_utf8(bytes).map_err(|_| {
            self.at = start;
            self.error("quoted text is not UTF-8")
        })
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<()> {
        let simple = match self.next() {
            Some('a') => 0x07,
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('v') => 0x0b,
            Some('\\') => b'\\',
            Some('x') => self.byte(16, 2)?,
            Some('0'..='7') => {
                self.at -= 1;
                self.byte(8, 3)?
            }
            Some('u') => return self.code_point(4, bytes),
            Some('U') => return self.code_point(8, bytes),
            Some(c) if c == quote => {
                push(bytes, c);
                return Ok(());
            }
            _ => return Err(self.error("unknown escape")),
        };
        bytes.push(simple);
        Ok(())
    }

    fn byte(&mut self, radix: u32, digits: usize) -> Result<u8> {
        let number = self.number(radix, digits)?;
        u8::try_from(number).map_err(|_| self.error("escape is more than a byte"))
    }

    fn code_point(&mut self, digits: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let number = self.number(16, digits)?;
        let point = char::from_u32(number).ok_or_else(|| self.error("no such code point"))?;
        push(bytes, point);
        Ok(())
    }

    fn number(&mut self, radix: u32, digits: usize) -> Result<u32> {
        let text = self.text.get(self.at..self.at + digits);
        // `from_str_radix` would take a sign.
        let number = text
            .filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric()))
            .and_then(|text| u32::from_str_radix(text, radix).ok())
            .ok_or_else(|| self.error("malformed number in an escape"))?;
        self.at += digits;
        Ok(number)
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, test: impl Fn(char) -> bool) -> &str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !test(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn error(&self, what: &str) -> SnapshotError {
        SnapshotError::InvalidArgument(format!("filter {:?}, byte {}: {what}", self.text, self.at))
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Fields for BTreeMap<&str, &str> {
        fn field(&self, path: &[String]) -> Option<String> {
            self.get(path.join(".").as_str()).map(|it| (*it).to_owned())
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let fields = BTreeMap::from([
            ("name", "sha256:ab"),
            ("kind", "active"),
            ("parent", ""),
            ("labels.a/b", "x,y"),
            ("labels.containerd.io/gc.root", "2026"),
            ("labels.plain", "v"),
        ]);
        let filters: Vec<_> = filters.iter().map(|it| (*it).to_owned()).collect();
        Filters::parse(&filters).unwrap().matches(&fields)
    }

    #[test]
    fn what_matches() {
        let table: &[(&[&str], bool)] = &[
            (&[], true),
            (&[""], true),
            (&["name"], true),
            (&["labels.none"], false),
            (&["labels.plain"], true),
            (&["name==sha256:ab"], true),
            (&["name == sha256:ab"], true),
            (&["name==sha256:a"], false),
            (&["name==sha256:ab,kind==active"], true),
            (&["name==sha256:ab, kind==view"], false),
            (&["kind==view", "kind==active"], true),
            (&[r#"parent=="""#], true),
            (&[r#"labels."a/b"=="x,y""#], true),
            (&[r#"labels."containerd.io/gc.root"==2026"#], true),
            (&[r#""name"=="sha256\x3aab""#], true),
            (&[r#"name=="sha256\u003aab""#], true),
            (&[r#"name=="sha256\072ab""#], true),
            (&["name!=other"], true),
            (&["name!=sha256:ab"], false),
            (&["labels.none!=x"], true),
            (&[r#"labels.none!="""#], false),
            (&[r#"labels.none=="""#], false),
            (&["name~=^sha256"], true),
            (&["name~=/^sha256:[a-f]+$/"], true),
            (&["name~=|^sha512|"], false),
            (&["name~=/a\\/b/"], false),
            (&["name~=/(/"], false),
            (&["name~=^sha256,kind~=act.*"], true),
        ];
        for (filters, wanted) in table {
            assert_eq!(matches(filters), *wanted, "{filters:?}");
        }
    }

    #[test]
    fn what_does_not_parse() {
        for filter in [
            "=",
            "name=",
            "name=x",
            "name==",
            "name==,kind",
            "name==x ,kind",
            "name===x",
            "name==/x/",
            "name==\"x",
            "name==\"\\q\"",
            "name==\"\\xzz\"",
            "name==\"\\x+1\"",
            "name==\"\\777\"",
            "name==\"\\xff\"",
            "labels.",
            ".name",
            "name,",
            "labels.containerd.io/gc.root",
        ] {
            let error = Filters::parse(&[filter.to_owned()]).unwrap_err();
            assert!(
                matches!(error, SnapshotError::InvalidArgument(_)),
                "{filter}: {error}"
            );
        }
    }
}
