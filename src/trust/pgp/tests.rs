//! GnuPG's signatures in every form that serves or must not, by a clock of our own.

use std::path::{Path, PathBuf};

use super::*;

/// 2025-06-02 12:00:00, when the signatures were made, and a day later.
const SIGNED: u64 = 1_748_865_600;
const NOW: u64 = SIGNED + 86_400;
const DAY: u64 = 86_400;

fn data(name: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpg");
    let file: PathBuf = directory.join(name);
    std::fs::read(&file).unwrap()
}

fn keyring(names: &[&str]) -> Result<Keyring, String> {
    let files: Vec<_> = names
        .iter()
        .map(|name| (data(name), (*name).to_owned()))
        .collect();
    Keyring::parse(&files)
}

fn verify(keys: &[&str], signature: &str, now: u64) -> Result<Verified, String> {
    keyring(keys).unwrap().verify(&data(signature), now)
}

#[test]
fn good_signatures() {
    let payload = data("payload");
    for (key, signature) in [
        ("good.gpg", "good.sig"),
        ("good.asc", "good.sig"),
        ("both.asc", "good.sig"),
        ("both.asc", "other.sig"),
        ("good.gpg", "plain.sig"),
        ("good.gpg", "zlib.sig"),
        ("good.gpg", "armored.sig"),
        ("rsa.gpg", "rsa.sig"),
        ("p256.gpg", "p256.sig"),
        ("sub.gpg", "sub.sig"),
        ("year.gpg", "year.sig"),
        ("good.gpg", "ends.sig"),
    ] {
        let verified = verify(&[key], signature, NOW).expect(signature);
        assert_eq!(verified.payload, payload, "{signature}");
        assert_eq!(verified.fingerprint.len(), 40);
    }
    // A subkey signs for its primary key.
    let keys = keyring(&["sub.gpg"]).unwrap();
    let verified = keys.verify(&data("sub.sig"), NOW).unwrap();
    assert!(keys.to_string().starts_with(&verified.fingerprint));
    assert_eq!(
        keys.to_string(),
        format!("{} (sub.gpg)", verified.fingerprint)
    );
}

#[test]
fn signatures_that_must_not_serve() {
    for (key, signature, want) in [
        ("other.gpg", "good.sig", "which the policy does not name"),
        ("good.gpg", "cleartext.sig", "a cleartext signature"),
        ("good.gpg", "detached.sig", "a detached signature"),
        ("good.gpg", "literal.sig", "a message that is not signed"),
        ("good.gpg", "encrypted.sig", "an encrypted message"),
        ("good.gpg", "twice.sig", "2 signatures, want one"),
        ("good.gpg", "text.sig", "of type Text, not on a document"),
        ("good.gpg", "critical.sig", "something critical"),
        ("rsa.gpg", "sha1.sig", "the hash SHA1 is too weak"),
        ("small.gpg", "small.sig", "fewer than 2048 bits"),
        ("revoked.gpg", "revoked.sig", "is revoked"),
        ("lost.gpg", "lost.sig", "is revoked"),
        ("good.gpg", "payload", "malformed"),
        ("good.gpg", "good.gpg", "without what it signs"),
        (
            "good.gpg",
            "good.asc",
            "a PGP PUBLIC KEY BLOCK, want a PGP MESSAGE",
        ),
    ] {
        let error = verify(&[key], signature, NOW).expect_err(signature);
        assert!(
            error.contains(want),
            "{signature}: want {want:?} in: {error}"
        );
    }
    assert!(keyring(&["good.gpg"]).unwrap().verify(b"", NOW).is_err());
    // The other keys of the keyring do not stand in the way.
    verify(&["revoked.gpg", "other.gpg", "good.gpg"], "good.sig", NOW).unwrap();
}

#[test]
fn time_is_kept() {
    for (key, signature, now, want) in [
        ("year.gpg", "year.sig", SIGNED + 364 * DAY, "has expired"),
        (
            "good.gpg",
            "ends.sig",
            SIGNED + 30 * DAY,
            "the signature has expired",
        ),
        ("good.gpg", "good.sig", SIGNED - 601, "in the future"),
    ] {
        let error = verify(&[key], signature, now).unwrap_err();
        assert!(error.contains(want), "{signature}: {error}");
    }
    verify(&["year.gpg"], "year.sig", SIGNED + 363 * DAY).unwrap();
    verify(&["good.gpg"], "ends.sig", SIGNED + 29 * DAY).unwrap();
    verify(&["good.gpg"], "good.sig", SIGNED - 599).unwrap();
}

#[test]
fn every_changed_byte_is_noticed() {
    let keys = keyring(&["good.gpg"]).unwrap();
    let message = data("plain.sig");
    // The packets' headers, file name and time, and what nobody signs, are no part of what is said.
    let payload = data("payload");
    let mut refused = 0;
    for at in 0..message.len() {
        let mut changed = message.clone();
        changed[at] ^= 1;
        match keys.verify(&changed, NOW) {
            Ok(verified) => assert_eq!(verified.payload, payload, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused > payload.len() + 64,
        "{refused} of {}",
        message.len()
    );
}

#[test]
fn compressed_messages_are_bounded() {
    use std::io::Write as _;
    let inside = vec![0; 64 << 20];
    let encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let mut encoder = encoder;
    encoder.write_all(&inside).unwrap();
    // Old format, tag 8, to the end; ZIP.
    let mut bomb = vec![0xa3, 1];
    bomb.extend(encoder.finish().unwrap());
    assert!((bomb.len() as u64) < MAX_MESSAGE);
    let error = keyring(&["good.gpg"])
        .unwrap()
        .verify(&bomb, NOW)
        .unwrap_err();
    assert!(error.contains("when decompressed"), "{error}");
}

#[test]
fn keyrings_that_cannot_serve_are_refused() {
    for (name, want) in [
        ("private.gpg", "a private key"),
        ("payload", "malformed key"),
        ("good.sig", "does not begin with a public key"),
        ("armored.sig", "a PGP MESSAGE, want a PGP PUBLIC KEY BLOCK"),
    ] {
        let error = keyring(&[name]).expect_err(name);
        assert!(error.contains(want), "{name}: want {want:?} in: {error}");
        assert!(error.starts_with(name));
    }
    let parse = |bytes: &[u8]| Keyring::parse(&[(bytes.to_vec(), "x".into())]);
    assert!(parse(b"").unwrap_err().contains("no OpenPGP key"));
    let mut keybox = vec![0, 0, 0, 32, 1, 1, 0, 2];
    keybox.extend(b"KBXf");
    assert!(parse(&keybox).unwrap_err().contains("a keybox"));
    // A key that says nothing about itself: the first packet alone.
    let good = data("good.gpg");
    let length = 2 + usize::from(good[1]);
    assert!(
        parse(&good[..length])
            .unwrap_err()
            .contains("no good signature of its own")
    );
    // Its user id, and what it says with it, changed.
    let mut changed = good;
    let at = changed.windows(4).position(|it| it == b"good").unwrap();
    changed[at] = b'f';
    assert!(
        parse(&changed)
            .unwrap_err()
            .contains("no good signature of its own")
    );
}
