//! Private keys on PKCS#11 tokens.
//!
//! A token is spoken to by a shared library of its maker. It is loaded into a process of its own, which
//! lives for one packet (`operation`): it can be killed when it hangs, gets the environment that the key
//! file wants, and sees no key but its own.

#[cfg_attr(not(feature = "pkcs11"), path = "absent.rs")]
mod operation;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use zeroize::{Zeroize as _, Zeroizing};

pub(crate) use self::operation::answer;
use super::provider::cmd;
use crate::{
    error::{Error, Kind, Result},
    ocicrypt::{
        json::decode_standard,
        pkcs11::{Module, Pkcs11Packet, TokenKey},
    },
    resource::Resources,
};

/// Subcommand of nacre that does one operation.
pub(crate) const SUBCOMMAND: &str = "token";

/// What the process is asked, as JSON on its standard input.
#[derive(Deserialize, Serialize)]
struct Question {
    module: PathBuf,
    slot: Option<u64>,
    token: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    pin: String,
    /// What may be for this key, in base64, and the hash of its padding.
    sealed: Vec<(String, String)>,
}

/// What it answers.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// The private options, in base64.
    Plain(String),
    /// There is no such token, or it does not work: it may be there another time.
    Away(String),
    /// There is no such key, or it opens nothing of it.
    Refused(String),
}

/// Longest PIN.
const MAX_PIN: usize = 256;
/// Where modules are that are given by name, as ocicrypt has it.
const MODULE_DIRECTORIES: [&str; 8] = [
    "/usr/lib64/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/local/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib/x86_64-linux-gnu/pkcs11",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/pkcs11",
    "/usr/lib/aarch64-linux-gnu",
];

/// Has the token open one of the packet's blobs.
///
/// # Errors
/// `Unavailable` if the token is not there or does not answer within `deadline`, `Denied` if it has no
/// key that opens one, `Invalid`, `NotFound`, `Unsupported`.
pub(super) async fn open(
    key: &TokenKey,
    packet: &Pkcs11Packet,
    program: Option<&Path>,
    deadline: Duration,
) -> Result<Zeroizing<Vec<u8>>> {
    let program = program.ok_or_else(|| {
        Error::unsupported("PKCS#11 tokens are used by the nacre program alone, not by its library")
    })?;
    let question = question(key, packet)?;
    let mut json = Zeroizing::new(Vec::with_capacity(64 << 10));
    serde_json::to_writer(&mut *json, &question)
        .map_err(|e| Error::internal("question to a token").with_source(e))?;
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).envs(&key.environment);
    let asked = cmd::run(&mut command, Path::new("nacre token"), &json);
    let answer = tokio::time::timeout(deadline, asked).await.map_err(|_| {
        let seconds = deadline.as_secs_f32();
        Error::unavailable(format!("token: no answer within {seconds} s"))
    })??;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| Error::internal("token: its answer is none"))?;
    match &answer {
        Answer::Plain(text) => {
            decode_standard(text).ok_or_else(|| Error::internal("token: its answer is not base64"))
        }
        Answer::Away(why) => Err(Error::unavailable(format!("token: {why}"))),
        Answer::Refused(why) => Err(Error::denied(format!("token: {why}"))),
    }
}

fn question(key: &TokenKey, packet: &Pkcs11Packet) -> Result<Question> {
    let uri = &key.uri;
    let pin = match (&uri.pin, &uri.pin_source) {
        (Some(pin), _) => pin.clone(),
        (None, Some(source)) => {
            let bytes = Resources::default().read(source, MAX_PIN);
            let bytes = bytes.map_err(|e| e.context("PIN"))?;
            let text = std::str::from_utf8(&bytes).map_err(|_| Error::invalid("PIN: not text"))?;
            Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => return Err(Error::denied("no PIN")),
    };
    let sealed = packet.sealed()?.into_iter();
    Ok(Question {
        module: module(uri.module.as_ref())?,
        slot: uri.slot,
        token: uri.token.clone(),
        manufacturer: uri.manufacturer.clone(),
        model: uri.model.clone(),
        serial: uri.serial.clone(),
        object: uri.object.clone(),
        id: uri.id.clone(),
        pin: pin.to_string(),
        sealed: sealed
            .map(|it| (STANDARD.encode(it.bytes), it.hash.name().to_owned()))
            .collect(),
    })
}

/// The module's file.
fn module(module: Option<&Module>) -> Result<PathBuf> {
    let name = match module {
        Some(Module::Path(path)) => return Ok(path.clone()),
        Some(Module::Name(name)) => name,
        None => return Err(Error::invalid("no module")),
    };
    let directories = MODULE_DIRECTORIES.iter().map(Path::new);
    directories
        .flat_map(|it| {
            [
                it.join(format!("lib{name}.so")),
                it.join(format!("{name}.so")),
            ]
        })
        .find(|it| it.is_file())
        .ok_or_else(|| {
            Error::new(Kind::NotFound, format!("PKCS#11 module {name:?}"))
                .with_hint("install it, or give module-path= in the key's URI")
        })
}

impl Drop for Question {
    fn drop(&mut self) {
        self.pin.zeroize();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Self::Plain(text) = self {
            text.zeroize();
        }
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Question({})", self.module.display())
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: &str = r#"{"recipients":[{"blob":"AQ==","hash":"sha256"}]}"#;

    fn key(uri: &str, pin: Option<&[u8]>) -> TokenKey {
        TokenKey::parse(format!("pkcs11:\n  uri: {uri}\n").as_bytes(), pin).unwrap()
    }

    #[test]
    fn questions_have_the_pin_from_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("pin");
        std::fs::write(&source, "12 34\n").unwrap();
        let packet = Pkcs11Packet::parse(PACKET.as_bytes()).unwrap();
        let uri = "pkcs11:token=t;object=o?module-path=/m.so";
        let given = question(&key(uri, Some(b"5")), &packet).unwrap();
        assert_eq!(given.pin, "5");
        let sourced = key(&format!("{uri}&pin-source=file:{}", source.display()), None);
        let question = question(&sourced, &packet).unwrap();
        assert_eq!(question.pin, "12 34");
        assert_eq!(question.sealed, [("AQ==".into(), "sha256".into())]);
    }

    #[tokio::test]
    async fn who_cannot_ask_says_why() {
        let packet = Pkcs11Packet::parse(PACKET.as_bytes()).unwrap();
        let ask = async |uri: &str, program: Option<&Path>| {
            let key = key(uri, Some(b"5"));
            let opened = open(&key, &packet, program, Duration::from_secs(60)).await;
            opened.unwrap_err()
        };
        let (path, name) = (
            "pkcs11:token=t;object=o?module-path=/m.so",
            "pkcs11:token=t;object=o?module-name=nobodys",
        );
        assert_eq!(ask(path, None).await.kind(), Kind::Unsupported);
        let missing = ask(name, Some(Path::new("/bin/false"))).await;
        assert_eq!(missing.kind(), Kind::NotFound);
        let failed = ask(path, Some(Path::new("/bin/false"))).await;
        assert!(failed.to_string().contains("nacre token"), "{failed}");
    }
}
