//! A strict reader of Prometheus' text format 0.0.4 and of OpenMetrics 1.0: what one of them does not
//! allow, and what it discourages where it matters to queries, is an error that names the line.

use std::collections::{BTreeMap, BTreeSet};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Prometheus,
    OpenMetrics,
}

/// What was read: values by series, as written but with labels in order.
#[derive(Debug, Default)]
pub struct Exposition {
    pub series: BTreeMap<String, f64>,
    pub types: BTreeMap<String, String>,
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
    helped: bool,
    /// By labels without `le`: bounds with cumulative counts, sum, count.
    histograms: BTreeMap<String, Buckets>,
}

#[derive(Default)]
struct Buckets {
    bounds: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
}

// === impl Exposition ===

impl Exposition {
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut families = BTreeSet::new();
        let mut family = Family::default();
        let body = match dialect {
            Dialect::Prometheus => text.strip_suffix('\n').ok_or("no line end at the end")?,
            Dialect::OpenMetrics => text
                .strip_suffix("\n# EOF\n")
                .ok_or("no # EOF at the end")?,
        };
        for line in body.split('\n') {
            let wrong = |why: &str| format!("{why}: {line:?}");
            if let Some(rest) = line.strip_prefix("# ") {
                let (word, rest) = rest.split_once(' ').ok_or_else(|| wrong("no name"))?;
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                if name != family.name {
                    family.end()?;
                    if !is_name(name) || !families.insert(name.to_owned()) {
                        return Err(wrong("not a name, or one that was before"));
                    }
                    family = Family {
                        name: name.to_owned(),
                        ..Family::default()
                    };
                }
                match word {
                    "HELP" if !family.helped && !rest.is_empty() => family.helped = true,
                    "TYPE" if family.kind.is_empty() => {
                        let known: &[&str] = match dialect {
                            Dialect::Prometheus => &["counter", "gauge", "histogram"],
                            Dialect::OpenMetrics => &["counter", "gauge", "histogram", "info"],
                        };
                        if !known.contains(&rest) {
                            return Err(wrong("unknown type"));
                        }
                        family.kind = rest.to_owned();
                        parsed.types.insert(name.to_owned(), rest.to_owned());
                    }
                    "UNIT" if dialect == Dialect::OpenMetrics && family.unit.is_none() => {
                        if !name.ends_with(&format!("_{rest}")) {
                            return Err(wrong("a name without its unit"));
                        }
                        family.unit = Some(rest.to_owned());
                    }
                    _ => return Err(wrong("not a line of this format, or one too many")),
                }
                continue;
            }
            let (name, labels, value) = sample(line).map_err(|why| wrong(&why))?;
            let suffix = name
                .strip_prefix(&family.name)
                .ok_or_else(|| wrong("a sample of another family"))?;
            if !family.helped || family.kind.is_empty() {
                return Err(wrong("a family without help or type"));
            }
            family
                .take(dialect, suffix, &labels, value)
                .map_err(|why| wrong(&why))?;
            let shown: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
            let series = match shown.is_empty() {
                true => name.to_owned(),
                false => format!("{name}{{{}}}", shown.join(",")),
            };
            if parsed.series.insert(series, value).is_some() {
                return Err(wrong("a series twice"));
            }
        }
        family.end()?;
        Ok(parsed)
    }

    /// The value of one series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        match self.series.get(series) {
            Some(value) => *value,
            None => panic!("no {series} in {:#?}", self.series),
        }
    }

    /// The sum of all series that begin so.
    pub fn sum(&self, prefix: &str) -> f64 {
        let all = self.series.iter();
        let some = all.filter(|(series, _)| series.starts_with(prefix));
        some.map(|(_, value)| value).sum()
    }
}

// === impl Family ===

impl Family {
    fn take(
        &mut self,
        dialect: Dialect,
        suffix: &str,
        labels: &BTreeMap<String, String>,
        value: f64,
    ) -> Result<(), String> {
        match (self.kind.as_str(), suffix, dialect) {
            ("counter", "", Dialect::Prometheus) if self.name.ends_with("_total") => {}
            ("counter", "_total", Dialect::OpenMetrics) => {}
            ("gauge", "", _) => return Ok(()),
            ("info", "_info", Dialect::OpenMetrics) if value == 1.0 => return Ok(()),
            ("histogram", "_bucket" | "_sum" | "_count", _) => {}
            _ => return Err(format!("a {} with {suffix:?}", self.kind)),
        }
        if value.is_nan() || value < 0.0 {
            return Err("a count below 0".into());
        }
        if self.kind == "counter" {
            return Ok(());
        }
        let mut others = labels.clone();
        let bound = others.remove("le");
        let buckets = self.histograms.entry(format!("{others:?}")).or_default();
        match (suffix, bound) {
            ("_bucket", Some(bound)) => buckets.bounds.push((number(&bound)?, value)),
            ("_sum", None) => buckets.sum = Some(value),
            ("_count", None) => buckets.count = Some(value),
            _ => return Err("le where it does not belong".into()),
        }
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        for (labels, buckets) in &self.histograms {
            let wrong = |why: &str| Err(format!("{} {labels}: {why}", self.name));
            if !buckets.bounds.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
                return wrong("bounds or counts that do not ascend");
            }
            match buckets.bounds.last() {
                Some((bound, count))
                    if *bound == f64::INFINITY && buckets.count == Some(*count) => {}
                _ => return wrong("no +Inf, or not the count"),
            }
            if buckets.sum.is_none() {
                return wrong("no sum");
            }
        }
        Ok(())
    }
}

type Labels = BTreeMap<String, String>;

/// `name{labels} value`, nothing after it.
fn sample(line: &str) -> Result<(&str, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err("not a name".into());
    }
    let mut labels = Labels::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (key, after) = inside.split_once("=\"").ok_or("a label without a value")?;
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if key.is_empty()
                || key.starts_with(|c: char| c.is_ascii_digit())
                || !key.chars().all(legal)
            {
                return Err(format!("label {key:?}"));
            }
            let (value, after) = quoted(after)?;
            if labels.insert(key.to_owned(), value).is_some() {
                return Err(format!("label {key:?} twice"));
            }
            if let Some(after) = after.strip_prefix(',') {
                inside = after;
            } else {
                rest = after.strip_prefix('}').ok_or("labels without an end")?;
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok((name, labels, number(value)?))
}

/// Up to the closing quote.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                other => return Err(format!("escape {other:?}")),
            },
            c => value.push(c),
        }
    }
    Err("a value without an end".into())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ if text.bytes().all(|b| b"0123456789+-.eE".contains(&b)) => {
            text.parse().map_err(|_| format!("not a number: {text:?}"))
        }
        _ => Err(format!("not a number: {text:?}")),
    }
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(legal)
}
