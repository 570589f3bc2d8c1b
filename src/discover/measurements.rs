//! Measurements: what the registers of a machine have to be that runs an image, and the signature
//! over them.

use std::{collections::BTreeMap, fmt};

use base64::Engine as _;
use serde::Serialize;

use super::{
    info::{Wanted, is_about, plain},
    name::{Form, Name},
};
use crate::{
    error::{Error, Result},
    oci::Digest,
    trust::{
        PublicKey,
        json::{self, Fault, Node},
    },
};

/// Measurements whose signature has been verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurements {
    /// Fingerprint of the key that signed them.
    pub signed_by: Digest,
    /// By number of the register.
    #[serde(serialize_with = "as_list")]
    registers: BTreeMap<u32, Expected>,
}

/// What a register has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Hexadecimal, 32 or 48 bytes.
    pub expected: String,
    /// Whether something else is told, but no reason to refuse.
    pub warn_only: bool,
}

/// What a register has to be, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Number of the register.
    pub register: u32,
    /// What it has to be.
    #[serde(flatten)]
    pub wanted: Expected,
    /// What it is; `None` if nobody said.
    pub actual: Option<String>,
    /// Whether they are the same.
    pub matches: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    register: u32,
    #[serde(flatten)]
    expected: &'a Expected,
}

/// Highest register: RTMRs and PCRs have fewer than 32.
const MAX_REGISTER: u32 = 255;
/// Bytes of SHA-256 and SHA-384.
const LENGTHS: [usize; 2] = [32, 48];
/// Longest signature in base64: RSA of 8192 bits takes 1368 characters.
const MAX_SIGNATURE: usize = 4096;

// === impl Measurements ===

impl Measurements {
    /// Verifies the signature over a file of measurements, and then reads it: it has to be about
    /// `name`, and to have an entry for what is `wanted`.
    ///
    /// # Errors
    /// `Corrupt` if `key` did not sign the file, `Invalid` if signature or file are malformed or
    /// about something else, `NotFound` if it has no such entry.
    pub fn verify(
        file: &[u8],
        signature: &[u8],
        key: &PublicKey,
        form: Form,
        name: &Name,
        wanted: &Wanted,
    ) -> Result<Self> {
        let signature = decode(signature)
            .map_err(|why| Error::invalid(format!("signature of the measurements: {why}")))?;
        if !key.verifies(file, &signature) {
            return Err(Error::corrupt(format!(
                "measurements of {name}: not signed by key {}",
                key.fingerprint()
            ))
            .with_hint("the signature is over the file as it is, byte by byte"));
        }
        let root = json::parse(file);
        let root = root.map_err(|f| Error::invalid(format!("measurements of {name}: {f}")))?;
        let malformed = |f: Fault| Error::invalid(format!("measurements of {name}: {f}"));
        let values = match form {
            Form::V2 => {
                is_about(&root, name).map_err(malformed)?;
                let list = root.want("list").and_then(Node::array);
                let mut found = Vec::new();
                for item in list.map_err(malformed)? {
                    if fits(item, wanted).map_err(malformed)? {
                        found.push(item);
                    }
                }
                one(&found, name, wanted)?
            }
            Form::V1 => {
                is_image(&root, name, wanted).map_err(malformed)?;
                &root
            }
        };
        let registers = values
            .want("measurements")
            .and_then(registers)
            .map_err(malformed)?;
        Ok(Self {
            signed_by: key.fingerprint().clone(),
            registers,
        })
    }

    /// The registers in the order of their numbers.
    pub fn registers(&self) -> impl Iterator<Item = (u32, &Expected)> {
        self.registers.iter().map(|(number, it)| (*number, it))
    }

    /// Holds what registers are against what they have to be. Registers that nothing is expected of
    /// do not matter.
    #[must_use]
    pub fn compare(&self, actual: &BTreeMap<u32, String>) -> Vec<Compared> {
        let each = self.registers.iter().map(|(number, wanted)| {
            let actual = actual.get(number).cloned();
            Compared {
                register: *number,
                matches: actual.as_ref() == Some(&wanted.expected),
                wanted: wanted.clone(),
                actual,
            }
        });
        each.collect()
    }
}

// === impl Compared ===

impl Compared {
    /// Whether it is a reason to refuse.
    #[must_use]
    pub fn refuses(&self) -> bool {
        !self.matches && !self.wanted.warn_only
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.matches, self.wanted.warn_only) {
            (true, _) => "ok",
            (false, true) => "differs (warning only)",
            (false, false) => "DIFFERS",
        };
        write!(f, "{} {verdict}", Shown(self.register, &self.wanted))?;
        match (&self.actual, self.matches) {
            (_, true) => Ok(()),
            (Some(actual), false) => write!(f, ": is {actual}"),
            (None, false) => write!(f, ": nothing is known of it"),
        }
    }
}

struct Shown<'a>(u32, &'a Expected);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<3} {}", self.0, self.1.expected)
    }
}

impl fmt::Display for Measurements {
    /// A line for each register.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self
            .registers()
            .map(|(number, it)| {
                let note = if it.warn_only { " (warning only)" } else { "" };
                format!("{}{note}", Shown(number, it))
            })
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What registers are, for [`Measurements::compare`]: `{"4": "HEX", ...}`; a value may also be
/// `{"expected": "HEX"}`, as in files of measurements.
///
/// # Errors
/// What is malformed, with its place.
pub fn parse_actual(bytes: &[u8]) -> Result<BTreeMap<u32, String>, String> {
    let read = || registers(&json::parse(bytes)?);
    let found = read().map_err(|fault| fault.to_string())?;
    let plain = found.into_iter().map(|(number, it)| (number, it.expected));
    Ok(plain.collect())
}

fn registers(node: &Node) -> Result<BTreeMap<u32, Expected>, Fault> {
    let mut found = BTreeMap::new();
    let mut length = None;
    for member in node.object()? {
        let number = member.key.parse().ok();
        let number = number.filter(|n: &u32| *n <= MAX_REGISTER && n.to_string() == member.key);
        let wrong = |why: String| Fault {
            at: member.at,
            reason: format!("register {:?}: {why}", member.key),
        };
        let number = number.ok_or_else(|| wrong("not a number of a register".into()))?;
        let (text, warn_only) = match &member.node.value {
            // The older form, which always refuses.
            json::Value::String(text) => (text.as_str(), false),
            _ => {
                member.node.only(&["expected", "warnOnly"])?;
                let warn_only = match member.node.get("warnOnly") {
                    Some(node) => node.boolean()?,
                    None => false,
                };
                (member.node.want("expected")?.string()?, warn_only)
            }
        };
        let bytes = hex::decode(text).map_err(|_| wrong("not hexadecimal".into()))?;
        if !LENGTHS.contains(&bytes.len()) {
            return Err(wrong(format!("{} bytes, want 32 or 48", bytes.len())));
        }
        if *length.get_or_insert(bytes.len()) != bytes.len() {
            return Err(wrong("longer or shorter than the others".into()));
        }
        let expected = Expected {
            expected: hex::encode(bytes),
            warn_only,
        };
        found.insert(number, expected);
    }
    match found.is_empty() {
        true => Err(node.fault("no register")),
        false => Ok(found),
    }
}

/// Whether an entry is for what is wanted.
fn fits(item: &Node, wanted: &Wanted) -> Result<bool, Fault> {
    let provider = plain(item.want("csp")?)?;
    let variant = plain(item.want("attestationVariant")?)?;
    let same = wanted.variant.as_deref().is_none_or(|it| it == variant);
    Ok(same && wanted.provider.eq_ignore_ascii_case(provider))
}

fn one<'n>(found: &[&'n Node], name: &Name, wanted: &Wanted) -> Result<&'n Node> {
    let which = Wanted {
        region: None,
        ..wanted.clone()
    };
    match found {
        [one] => Ok(one),
        [] => Err(Error::not_found(format!(
            "measurements of {name}: none for {which}"
        ))),
        _ => Err(Error::invalid(format!(
            "measurements of {name}: {} for {which}",
            found.len()
        ))
        .with_hint("give --variant")),
    }
}

/// Whether a file of the first form is about the image and the provider.
fn is_image(root: &Node, name: &Name, wanted: &Wanted) -> Result<(), Fault> {
    let image = root.want("image")?;
    let is = image.string()?;
    if is != name.to_string() {
        return Err(image.fault(format!("image is {is:?}, want {:?}", name.to_string())));
    }
    let provider = root.want("csp")?;
    match provider.string()?.eq_ignore_ascii_case(&wanted.provider) {
        true => Ok(()),
        false => Err(provider.fault(format!(
            "csp is {:?}, want {:?}",
            provider.string()?,
            wanted.provider
        ))),
    }
}

/// `cosign sign-blob` writes base64, with or without a line end.
fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = text.trim_ascii();
    if text.is_empty() || text.len() > MAX_SIGNATURE {
        return Err(format!("{} characters", text.len()));
    }
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| "not base64".into())
}

fn as_list<S: serde::Serializer>(
    registers: &BTreeMap<u32, Expected>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let listed = registers.iter().map(|(register, expected)| Listed {
        register: *register,
        expected,
    });
    serializer.collect_seq(listed)
}
