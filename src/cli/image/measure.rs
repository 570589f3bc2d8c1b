//! `nacre image measure`: an image's digests and root hashes, signed if a key is given.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use zeroize::Zeroizing;

use crate::{
    cli::{
        args::{ImageArgs, StoreArgs, read_key},
        output::{Output, bytes},
    },
    error::{Error, Result},
    image::{
        measure::{self, MeasureOptions, Measurement},
        sign::SigningKey,
    },
};

/// Options of `nacre image measure`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Measure {
    #[command(flatten)]
    image: ImageArgs,
    /// Also write the measurement as JSON into this file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Sign that file with a private key as `cosign sign-blob` does, into FILE.sig: cosign.key, whose
    /// password is in COSIGN_PASSWORD, or an unencrypted PEM file (ECDSA P-256).
    #[arg(long, value_name = "FILE", requires = "output")]
    key: Option<PathBuf>,
    /// Salt of the root hashes, in hexadecimal [default: none].
    #[arg(long, value_name = "HEX")]
    verity_salt: Option<String>,
    /// Write the two devices of the EROFS form into this directory, as metadata.erofs and data.img; not of
    /// encrypted images.
    #[arg(long, value_name = "DIR")]
    export_erofs: Option<PathBuf>,
}

// === impl Measure ===

impl Measure {
    pub(super) async fn run(self, output: &Output) -> Result<()> {
        let key = self.key.as_deref().map(read).transpose()?;
        let salt = self.verity_salt.as_deref().map(hex::decode).transpose();
        let options = MeasureOptions {
            salt: salt
                .map_err(|e| Error::invalid(format!("--verity-salt: {e}")))?
                .unwrap_or_default(),
            export: self.export_erofs,
        };
        let image = self.image.open(&StoreArgs::in_memory(), None).await?;
        let measured = measure::measure(&image, &options).await?;
        if let Some(file) = &self.output {
            let text = serde_json::to_vec(&measured);
            let text = text.map_err(|e| Error::internal("measurement").with_source(e))?;
            let failed = |file: &PathBuf, e| Error::io(file.display().to_string(), e);
            std::fs::write(file, &text).map_err(|e| failed(file, e))?;
            if let Some(key) = key {
                let mut name = file.as_os_str().to_owned();
                name.push(".sig");
                let signature = PathBuf::from(name);
                let encoded = STANDARD.encode(key.sign(&text)?);
                std::fs::write(&signature, encoded).map_err(|e| failed(&signature, e))?;
            }
        }
        output.result(&measured, || text(&measured))
    }
}

fn read(file: &Path) -> Result<SigningKey> {
    let pem = read_key(file)?;
    let password = std::env::var_os("COSIGN_PASSWORD").map(OsString::into_vec);
    let password = password.map(Zeroizing::new);
    let password = password.as_ref().map(|it| &it[..]);
    SigningKey::open(&pem, password, &format!("key {}", file.display()))
}

fn text(measured: &Measurement) -> String {
    let mut lines = vec![format!("{} ({})", measured.reference, measured.platform)];
    if let Some(index) = &measured.index_digest {
        lines.push(format!("index     {index}"));
    }
    lines.push(format!("manifest  {}", measured.manifest_digest));
    lines.push(format!("config    {}", measured.config_digest));
    lines.push(format!("tree      {}", measured.tree_digest));
    let (entries, size) = (measured.entries, bytes(measured.file_bytes));
    lines.push(format!("          {entries} names, {size} in files"));
    if let Some(erofs) = &measured.erofs {
        let salt = match erofs.salt.as_str() {
            "" => "no salt".to_owned(),
            salt => format!("salt {salt}"),
        };
        lines.push(format!("erofs     dm-verity, {}, {salt}", erofs.hash));
        for (name, root) in [("metadata", &erofs.metadata), ("data", &erofs.data)] {
            let (hash, blocks) = (&root.root_hash, root.blocks);
            lines.push(format!("          {name:<8} {hash} ({blocks} blocks)"));
        }
    }
    if let Some(why) = &measured.erofs_missing {
        lines.push(format!("erofs     none: {why}"));
    }
    lines.join("\n")
}
