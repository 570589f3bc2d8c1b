//! `nacre image sign` and `keygen`.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use zeroize::Zeroizing;

use crate::{
    cli::{
        args::{RegistryArgs, parse_reference, read_key},
        output::Output,
    },
    error::{Error, Result},
    image::sign,
    oci::Reference,
};

/// Options of `nacre image sign`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Sign {
    /// Image to sign.
    #[arg(value_parser = parse_reference)]
    reference: Reference,
    /// Private key: cosign.key, whose password is in COSIGN_PASSWORD, or an unencrypted PEM file
    /// (ECDSA P-256).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Options of `nacre image keygen`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Keygen {
    /// Writes PREFIX.key (private, mode 0600) and PREFIX.pub.
    prefix: PathBuf,
}

// === impl Sign ===

impl Sign {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let Reference::Registry(identity) = &self.reference else {
            return Err(Error::unsupported(format!(
                "{}: only images in a registry are signed",
                self.reference
            ))
            .with_hint("copy it to a registry first: the signature names the repository"));
        };
        let key = signing_key(&self.key)?;
        let access = self.registry.access()?;
        let (repository, location) = access.open(&self.reference).await?;
        let (writer, _) = access.create(&self.reference).await?;
        let digest = repository.manifest(&location).await?.digest;
        let signed = sign::sign(&key, identity, &digest, &*repository, &*writer).await?;
        output.result(&signed, || {
            format!(
                "{} signed as {} (tag {})",
                signed.digest, signed.identity, signed.tag
            )
        })
    }
}

/// Reads a private key; its password, if it has one, is in the environment.
pub(super) fn signing_key(file: &Path) -> Result<sign::SigningKey> {
    let pem = read_key(file)?;
    // cosign takes an empty password for one, so that only a missing one is none.
    let password = std::env::var_os("COSIGN_PASSWORD").map(OsString::into_vec);
    let password = password.map(Zeroizing::new);
    let password = password.as_ref().map(|it| &it[..]);
    sign::SigningKey::open(&pem, password, &format!("key {}", file.display()))
}

// === impl Keygen ===

impl Keygen {
    pub(super) fn run(self, output: &Output) -> Result<()> {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        let (private, public) = sign::generate()?;
        let file = |extension| {
            let mut name = self.prefix.as_os_str().to_owned();
            name.push(extension);
            PathBuf::from(name)
        };
        let write = |path: &PathBuf, content: &str, mode| {
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path)
                .and_then(|mut file| file.write_all(content.as_bytes()))
                .map_err(|e| Error::io(format!("key file {}", path.display()), e))
        };
        let (private_file, public_file) = (file(".key"), file(".pub"));
        write(&private_file, &private, 0o600)?;
        write(&public_file, &public, 0o644)?;
        let made = serde_json::json!({ "private": private_file, "public": public_file });
        output.result(&made, || {
            format!("{} and {}", private_file.display(), public_file.display())
        })
    }
}
