//! What is said when no key opens a layer: what was tried, or what could be.

use crate::{
    error::{Error, Kind},
    keys::provider::Providers,
    ocicrypt::PacketInfo,
};

/// Nothing was tried: says what could open the layer, and how it is given.
pub(super) fn no_key(providers: &Providers, packets: &[PacketInfo]) -> Error {
    let mut have = Vec::new();
    let mut hints = Vec::new();
    for packet in packets {
        let mut text = packet.kind.clone();
        if let Some(recipients) = packet.recipients {
            text += &format!(
                " ({recipients} recipient{})",
                if recipients == 1 { "" } else { "s" }
            );
        }
        if matches!(&packet.kind[..], "jwe" | "pkcs7" | "pgp") {
            hints.push("give a recipient's private key: --decryption-key FILE".to_owned());
        }
        if packet.kind == "pkcs11" {
            let hint = "say on which token a recipient's key is: --decryption-key FILE.yaml";
            hints.push(hint.to_owned());
        }
        if let Some(name) = packet.kind.strip_prefix("provider.") {
            hints.push(providers.hint(name));
        }
        if let Some(kid) = &packet.kid {
            text += &format!(" (key {kid:?})");
            hints.push(format!(
                "give the key itself: --coco-key {kid}=FILE, or --offline-keys FILE that has it"
            ));
        }
        have.push(text);
    }
    if hints.is_empty() {
        return Error::unsupported(format!(
            "encrypted, and its key is wrapped only in ways that nacre does not open: {}",
            joined(have, ", ")
        ))
        .with_hint(
            "add a JWE recipient: nacre image rewrap, or skopeo copy --encryption-key jwe:FILE",
        );
    }
    Error::denied(format!(
        "encrypted, and no key is configured for it; it can be opened through: {}",
        joined(have, ", ")
    ))
    .with_hint(joined(hints, "; or "))
}

/// Keys were tried and none opened the layer. What can be retried decides the kind, then a refusal.
pub(super) fn none_opens(failures: Vec<Error>) -> Error {
    let kind = [Kind::Unavailable, Kind::Denied]
        .into_iter()
        .find(|kind| failures.iter().any(|e| e.kind() == *kind))
        .unwrap_or(failures[0].kind());
    let hint = failures
        .iter()
        .find(|e| e.kind() == kind)
        .and_then(|e| e.hint().map(ToOwned::to_owned))
        .or_else(|| {
            (kind == Kind::Denied)
                .then(|| "the keys given belong to another recipient or another image".to_owned())
        });
    let texts = failures.iter().map(ToString::to_string).collect();
    let error = Error::new(
        kind,
        format!(
            "encrypted, and no configured key opens it: {}",
            joined(texts, "; ")
        ),
    );
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Joins texts, each once, and not more than a reader takes in.
fn joined(texts: Vec<String>, separator: &str) -> String {
    const MOST: usize = 8;
    let mut unique: Vec<String> = Vec::new();
    for text in texts {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    if unique.len() > MOST {
        let more = unique.len() - MOST;
        unique.truncate(MOST);
        unique.push(format!("and {more} more"));
    }
    unique.join(separator)
}
