//! Messages that GnuPG made, opened by keys that it exported.

use super::*;
use crate::error::Kind;

const PLAIN: &[u8] = b"what was wrapped";

fn file(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocicrypt/pgp/");
    std::fs::read(format!("{directory}{name}")).unwrap()
}

fn keys(name: &str) -> PgpKeys {
    let bytes = file(name);
    assert!(PgpKeys::is(&bytes), "{name}");
    PgpKeys::parse(&bytes, Some(b"secret")).unwrap()
}

#[test]
fn every_recipient_opens_a_message() {
    for (name, recipients, openers) in [
        (
            "message.gpg",
            4,
            &["rsa.asc", "cv25519.asc", "nist.asc", "locked.gpg"][..],
        ),
        // Compressed, and one recipient is not named.
        ("compressed.gpg", 3, &["rsa.asc", "cv25519.asc", "nist.asc"]),
    ] {
        let message = file(name);
        let packet = PgpPacket::parse(&message).unwrap();
        assert_eq!(packet.recipients(), recipients);
        for opener in openers {
            let opened = packet.open(&keys(opener)).unwrap();
            assert_eq!(opened[..], *PLAIN, "{name} by {opener}");
        }
        let denied = packet.open(&keys("other.asc")).unwrap_err();
        assert_eq!(denied.kind(), Kind::Denied, "{denied}");
    }
}

#[test]
fn what_debians_skopeo_wraps() {
    let message = file("skopeo.gpg");
    let packet = PgpPacket::parse(&message).unwrap();
    let opened = packet.open(&keys("rsa.asc")).unwrap();
    let text = std::str::from_utf8(&opened).unwrap();
    assert!(text.starts_with(r#"{"symkey":""#), "{text}");
    assert!(packet.open(&keys("cv25519.asc")).is_err());
}

#[test]
fn a_file_may_have_several_keys() {
    let several = [file("other.asc"), file("cv25519.asc")].concat();
    let armored = PgpKeys::parse(&several, None);
    // gpg writes one block for all; two blocks after each other are read as far as the first goes.
    assert_eq!(format!("{:?}", armored.unwrap()), "PgpKeys(1)");
}

#[test]
fn a_flipped_bit_is_denied_or_malformed() {
    let message = file("message.gpg");
    let (rsa, curve) = (keys("rsa.asc"), keys("cv25519.asc"));
    for at in (0..message.len()).step_by(5) {
        let mut flipped = message.clone();
        flipped[at] ^= 0x10;
        for keys in [&rsa, &curve] {
            if let Ok(packet) = PgpPacket::parse(&flipped)
                && let Ok(opened) = packet.open(keys)
            {
                // What was flipped was another recipient's.
                assert_eq!(opened[..], *PLAIN, "byte {at}");
                assert!(at < 640, "byte {at} is in what is protected");
            }
        }
    }
}

#[test]
fn keys_that_do_not_serve() {
    let cut = &file("rsa.asc")[..900];
    for (bytes, password, kind, text) in [
        (file("locked.gpg"), None, Kind::Denied, "no password"),
        (
            file("locked.gpg"),
            Some(&b"secreT"[..]),
            Kind::Invalid,
            "does not fit",
        ),
        (
            file("signer.asc"),
            None,
            Kind::Unsupported,
            "cannot decrypt",
        ),
        (cut.to_vec(), None, Kind::Invalid, "OpenPGP"),
        (vec![0x95, 1, 2, 3], None, Kind::Invalid, ""),
    ] {
        let error = PgpKeys::parse(&bytes, password).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let other = [&b"-----BEGIN PRIVATE KEY-----"[..], b"{}", b"\x30\x82", b""];
    assert!(other.iter().all(|it| !PgpKeys::is(it)));
}

#[test]
fn packets_that_are_none() {
    for (bytes, kind) in [
        (file("password.gpg"), Kind::Unsupported),
        (file("rsa.asc"), Kind::Invalid),
        (b"x".to_vec(), Kind::Invalid),
        (Vec::new(), Kind::Invalid),
    ] {
        assert_eq!(PgpPacket::parse(&bytes).unwrap_err().kind(), kind);
    }
}
