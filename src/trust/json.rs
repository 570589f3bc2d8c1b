//! JSON that is read strictly: duplicate keys are refused at every level, and every value knows its
//! line and column.
//!
//! `serde_json` keeps the last of two equal keys and positions only its own errors. A policy or a
//! signed payload must not be read as two things, and a policy error must point at the line to fix.

use std::{collections::HashSet, fmt};

/// Where a value or key begins, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value with the place where it begins.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
}

/// What a [`Node`] is. Numbers are kept as nothing but their kind: no document read here has one
/// that matters.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number,
    String(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
    /// Something that was checked and not kept.
    Unkept,
}

/// One key of an object and its value.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) at: Position,
    pub(crate) key: String,
    pub(crate) node: Node,
}

/// Why a document is refused, and where.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Position,
    pub(crate) reason: String,
}

/// Deepest nesting that is read; policies have 6 levels, statements of signatures fewer than 20.
const MAX_DEPTH: usize = 64;

/// Most values in a document, so that memory stays bounded: a policy of 20,000 scopes has 120,000,
/// a bundle some hundreds.
const MAX_NODES: usize = 200_000;

struct Reader<'a> {
    bytes: &'a [u8],
    next: usize,
    nodes: usize,
    /// The member of the document whose value is not kept.
    without: Option<&'a str>,
    /// Whether what is read now is kept.
    keeping: bool,
    /// Line of `next`, and where it begins. Only white space has line breaks.
    line: usize,
    line_start: usize,
}

/// Parses a whole document. Its size is bounded by the caller, who holds the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node, Fault> {
    read(bytes, None)
}

/// As [`parse`], but the value of the document's member `without` is only checked: it may have any
/// number of values.
pub(crate) fn parse_without(bytes: &[u8], without: &str) -> Result<Node, Fault> {
    read(bytes, Some(without))
}

fn read(bytes: &[u8], without: Option<&str>) -> Result<Node, Fault> {
    let mut reader = Reader {
        bytes,
        next: 0,
        nodes: 0,
        without,
        keeping: true,
        line: 1,
        line_start: 0,
    };
    let node = reader.node(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.fault("more text after the end of the document")),
    }
}

// === impl Node ===

impl Node {
    /// The members, if this is an object.
    pub(crate) fn object(&self) -> Result<&[Member], Fault> {
        match &self.value {
            Value::Object(members) => Ok(members),
            other => Err(self.fault(format!("want an object, have {}", other.kind()))),
        }
    }

    /// The items, if this is an array.
    pub(crate) fn array(&self) -> Result<&[Node], Fault> {
        match &self.value {
            Value::Array(items) => Ok(items),
            other => Err(self.fault(format!("want an array, have {}", other.kind()))),
        }
    }

    /// The text, if this is a string.
    pub(crate) fn string(&self) -> Result<&str, Fault> {
        match &self.value {
            Value::String(text) => Ok(text),
            other => Err(self.fault(format!("want a string, have {}", other.kind()))),
        }
    }

    /// The truth value, if this is one.
    pub(crate) fn boolean(&self) -> Result<bool, Fault> {
        match &self.value {
            Value::Bool(it) => Ok(*it),
            other => Err(self.fault(format!("want a boolean, have {}", other.kind()))),
        }
    }

    /// The value of `key`; `None` if it is missing or this is not an object.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Object(members) => members.iter().find(|m| m.key == key).map(|m| &m.node),
            _ => None,
        }
    }

    /// The value of `key`, which must be there.
    pub(crate) fn want(&self, key: &str) -> Result<&Node, Fault> {
        self.object()?;
        self.get(key)
            .ok_or_else(|| self.fault(format!("{key:?} is missing")))
    }

    /// Refuses members other than `known`.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Fault> {
        match self
            .object()?
            .iter()
            .find(|m| !known.contains(&m.key.as_str()))
        {
            Some(unknown) => Err(Fault {
                at: unknown.at,
                reason: format!("unknown field {:?}", unknown.key),
            }),
            None => Ok(()),
        }
    }

    /// A fault at this place.
    pub(crate) fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault {
            at: self.at,
            reason: reason.into(),
        }
    }
}

// === impl Value ===

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
            Value::Unkept => "something that was not kept",
        }
    }
}

// === impl Fault ===

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "line {line}, column {column}: {}", self.reason)
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn node(&mut self, depth: usize) -> Result<Node, Fault> {
        self.space();
        let at = self.position(self.next);
        if depth > MAX_DEPTH {
            return Err(self.fault(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.nodes += usize::from(self.keeping);
        if self.nodes > MAX_NODES {
            return Err(self.fault(format!("more than {MAX_NODES} values")));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => return Err(self.fault("want a value")),
            None => return Err(self.fault("the document ends where a value should be")),
        };
        Ok(Node { at, value })
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        self.next += 1;
        let mut members: Vec<Member> = Vec::new();
        let mut keys: HashSet<String> = HashSet::new();
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            let at = self.position(self.next);
            if self.peek() != Some(b'"') {
                return Err(self.fault("want a key in double quotes"));
            }
            let key = self.string()?;
            if !keys.insert(key.clone()) {
                return Err(Fault {
                    at,
                    reason: format!("duplicate key {key:?}"),
                });
            }
            self.space();
            if !self.take(b':') {
                return Err(self.fault("want ':' after a key"));
            }
            let unkept = depth == 0 && self.without == Some(key.as_str());
            let keeping = self.keeping;
            self.keeping = keeping && !unkept;
            let mut node = self.node(depth + 1)?;
            self.keeping = keeping;
            if unkept {
                node.value = Value::Unkept;
            }
            if keeping {
                members.push(Member { at, key, node });
            }
            self.space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return Err(self.fault("want ',' or '}'"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        self.next += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            let item = self.node(depth + 1)?;
            if self.keeping {
                items.push(item);
            }
            self.space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.fault("want ',' or ']'"));
            }
        }
    }

    /// Finds the closing quote; what is between is decoded by `serde_json`.
    fn string(&mut self) -> Result<String, Fault> {
        let start = self.next;
        self.next += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.next += 2,
                Some(_) => self.next += 1,
                None => {
                    self.next = start;
                    return Err(self.fault("a string does not end"));
                }
            }
        }
        self.next += 1;
        serde_json::from_slice(&self.bytes[start..self.next]).map_err(|_| Fault {
            at: self.position(start),
            reason: "a string with an escape or character that JSON does not allow".into(),
        })
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.next;
        while matches!(
            self.peek(),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            self.next += 1;
        }
        match serde_json::from_slice::<serde_json::Number>(&self.bytes[start..self.next]) {
            Ok(_) => Ok(Value::Number),
            Err(_) => Err(Fault {
                at: self.position(start),
                reason: "malformed number".into(),
            }),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Fault> {
        if !self.bytes[self.next..].starts_with(word.as_bytes()) {
            return Err(self.fault("want a value"));
        }
        self.next += word.len();
        Ok(value)
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.next += 1;
            if byte == b'\n' {
                self.line += 1;
                self.line_start = self.next;
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.next).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.next += usize::from(found);
        found
    }

    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault {
            at: self.position(self.next),
            reason: reason.into(),
        }
    }

    /// The place of an offset in the current line.
    fn position(&self, offset: usize) -> Position {
        Position {
            line: self.line,
            column: 1 + offset.saturating_sub(self.line_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_with_their_places() {
        let node =
            parse(b"{\n  \"a\": [1, -2.5e3, true, null, \"x\\u00e9\\ud83d\\ude00\"],\n \"b\": {}}")
                .unwrap();
        let items = node.want("a").unwrap().array().unwrap();
        assert_eq!(items.len(), 5);
        assert_eq!(items[4].string().unwrap(), "x\u{e9}\u{1f600}");
        assert_eq!(
            items[4].at,
            Position {
                line: 2,
                column: 32
            }
        );
        assert!(node.want("b").unwrap().object().unwrap().is_empty());
    }

    #[test]
    fn refuses_with_the_place() {
        for (text, want) in [
            ("", "line 1, column 1: the document ends"),
            (
                "{\"a\":1,\n\"a\":2}",
                "line 2, column 1: duplicate key \"a\"",
            ),
            (
                "{\"a\":1,\n\"\\u0061\":2}",
                "line 2, column 1: duplicate key \"a\"",
            ),
            (
                "{\"a\":{\"b\":1,\"b\":1}}",
                "line 1, column 13: duplicate key",
            ),
            ("{} x", "line 1, column 4: more text"),
            ("{\"a\"}", "column 5: want ':'"),
            ("{a:1}", "column 2: want a key"),
            ("[1 2]", "column 4: want ',' or ']'"),
            ("[1,]", "column 4: want a value"),
            ("\"abc", "column 1: a string does not end"),
            ("\"a\\", "a string does not end"),
            ("\"\\q\"", "column 1: a string with an escape"),
            ("\"\n\"", "column 1: a string with an escape"),
            ("01", "malformed number"),
            ("nul", "want a value"),
        ] {
            let fault = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(want), "{text:?}: {fault}");
        }
        let deep = "[".repeat(MAX_DEPTH + 2);
        assert!(
            parse(deep.as_bytes())
                .unwrap_err()
                .reason
                .contains("levels deep")
        );
        assert!(parse(b"\"\xff\"").is_err());
        let many = format!("[{}1]", "1,".repeat(MAX_NODES));
        assert!(
            parse(many.as_bytes())
                .unwrap_err()
                .reason
                .contains("more than")
        );
        // Hostile documents of the largest size take no longer than they are.
        let members: Vec<String> = (0..MAX_NODES / 2).map(|n| format!("\n\"{n}\":1")).collect();
        let wide = parse(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        assert_eq!(wide.object().unwrap().len(), MAX_NODES / 2);
    }

    #[test]
    fn what_is_not_kept_is_checked_all_the_same() {
        let many = format!("[{}1]", "1,".repeat(2 * MAX_NODES));
        let text = format!("{{\"a\":{{\"big\":1}},\"big\":{many},\"c\":[1]}}");
        assert!(parse(text.as_bytes()).is_err());
        let root = parse_without(text.as_bytes(), "big").unwrap();
        assert!(matches!(root.want("big").unwrap().value, Value::Unkept));
        assert!(root.want("big").unwrap().array().is_err());
        assert_eq!(root.want("c").unwrap().array().unwrap().len(), 1);
        let inner = root.want("a").unwrap().want("big").unwrap();
        assert!(matches!(inner.value, Value::Number));
        for (text, want) in [
            ("{\"big\":{\"a\":1,\"a\":2}}", "duplicate key"),
            ("{\"big\":[{\"a\":[1,]}]}", "want a value"),
            ("{\"big\":1,\"big\":2}", "duplicate key \"big\""),
        ] {
            let fault = parse_without(text.as_bytes(), "big").unwrap_err();
            assert!(fault.reason.contains(want), "{text}: {fault}");
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json_and_never_panics(bytes: Vec<u8>) {
            let ours = parse(&bytes).is_ok();
            let theirs = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
            proptest::prop_assert!(!ours || theirs);
        }
    }
}
