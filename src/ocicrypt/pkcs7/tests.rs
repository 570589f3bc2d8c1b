use super::*;
use crate::{
    error::Kind,
    ocicrypt::{private_key::tests::file, tlv::element},
};

fn certificate() -> Certificate {
    Certificate::parse(&file("rsa-cert.pem")).unwrap()
}

fn private(name: &str) -> PrivateKey {
    PrivateKey::parse(&file(name), None).unwrap()
}

/// A message around this algorithm identifier and recipient.
fn message(algorithm: &[u8], info: &[u8], sealed: &[u8]) -> Vec<u8> {
    message_of(algorithm, info, &element(CONTENT, &[sealed]))
}

fn message_of(algorithm: &[u8], info: &[u8], content: &[u8]) -> Vec<u8> {
    let content = element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[DATA]),
            &element(SEQUENCE, &[algorithm]),
            content,
        ],
    );
    let enveloped = [element(INTEGER, &[&[0]]), element(SET, &[info]), content].concat();
    element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[ENVELOPED_DATA]),
            &element(CONTEXT_0, &[&element(SEQUENCE, &[&enveloped])]),
        ],
    )
}

fn info(algorithm: &[u8], encrypted: &[u8]) -> Vec<u8> {
    let algorithm = element(OBJECT_IDENTIFIER, &[algorithm]);
    element(
        SEQUENCE,
        &[
            &element(INTEGER, &[&[0]]),
            &element(SEQUENCE, &[]),
            &element(SEQUENCE, &[&algorithm]),
            &element(OCTET_STRING, &[encrypted]),
        ],
    )
}

#[test]
fn opens_with_the_recipients_key_and_no_other() {
    for count in [1, 3] {
        let packet = seal(&vec![certificate(); count], b"content").unwrap();
        let parsed = Pkcs7::parse(&packet).unwrap();
        assert_eq!(parsed.recipients(), count);
        assert_eq!(
            parsed.open(&private("rsa-pkcs8.pem")).unwrap()[..],
            *b"content"
        );
        let error = parsed.open(&private("p256-sec1.pem")).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
    }
    let many = vec![certificate(); MAX_RECIPIENTS + 1];
    assert_eq!(seal(&many, b"x").unwrap_err().kind(), Kind::Invalid);
    let text = [file("rsa-pkcs8.pem"), file("rsa-cert.pem")].concat();
    assert_eq!(
        format!("{:?}", Certificate::parse(&text).unwrap()),
        format!("{:?}", certificate())
    );
}

#[test]
fn whatever_byte_is_turned_it_does_not_open() {
    let packet = seal(&[certificate()], b"content").unwrap();
    let key = private("rsa-pkcs8.pem");
    // Issuer and serial number are for finding the certificate: nothing rests on them.
    let named = packet
        .windows(certificate().issuer.len())
        .position(|window| window == certificate().issuer)
        .unwrap();
    let unread = named..named + certificate().issuer.len() + certificate().serial.len();
    for at in (0..packet.len()).filter(|at| !unread.contains(at)) {
        let mut turned = packet.clone();
        turned[at] ^= 0x40;
        let opened = Pkcs7::parse(&turned).and_then(|packet| packet.open(&key));
        let said = opened.map(|content| String::from_utf8_lossy(&content).into_owned());
        // A version number, an unread kind of content, a NULL.
        assert!(
            said.as_ref().map_or(true, |said| said == "content"),
            "byte {at}: {said:?}"
        );
        assert!(Pkcs7::parse(&packet[..at]).is_err(), "cut at {at}");
    }
    assert!(Pkcs7::parse(&[&packet[..], &[0]].concat()).is_err());
}

#[test]
fn forms_that_others_write() {
    let content = Pkcs7::parse(&seal(&[certificate()], b"content").unwrap()).unwrap();
    let parameters = element(
        SEQUENCE,
        &[
            &element(OCTET_STRING, &[&content.nonce]),
            &element(INTEGER, &[&[16]]),
        ],
    );
    let algorithm = [element(OBJECT_IDENTIFIER, &[AES_128_GCM]), parameters].concat();
    let recipient = info(RSA_ENCRYPTION, &content.recipients[0].encrypted_key);
    let (first, second) = content.sealed.split_at(5);
    let pieces = [first, second].map(|piece| element(OCTET_STRING, &[piece]));
    let pieces = element(CONTEXT_0, &[&pieces.concat()]);
    for packet in [
        message(&algorithm, &recipient, &content.sealed),
        message_of(&algorithm, &recipient, &pieces),
    ] {
        let opened = Pkcs7::parse(&packet)
            .unwrap()
            .open(&private("rsa-pkcs8.pem"));
        assert_eq!(opened.unwrap()[..], *b"content");
    }
    let odd = element(CONTEXT_0, &[&element(SET, &[&content.sealed])]);
    assert!(Pkcs7::parse(&message_of(&algorithm, &recipient, &odd)).is_err());
}

#[test]
fn refuses_what_it_does_not_know() {
    let cbc = element(OBJECT_IDENTIFIER, &[&SHA256[..7], &[1, 2]]);
    let gcm = element(OBJECT_IDENTIFIER, &[AES_128_GCM]);
    let good = info(RSA_ENCRYPTION, b"x");
    let signed = element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[DATA]),
            &element(CONTEXT_0, &[]),
        ],
    );
    for (packet, kind, text) in [
        (signed, Kind::Unsupported, "not enveloped"),
        (message(&cbc, &good, &[0; 16]), Kind::Unsupported, "AES-GCM"),
        (message(&gcm, &good, &[0; 16]), Kind::Invalid, "parameters"),
        (
            message(&gcm, &info(SHA1, b"x"), &[0; 16]),
            Kind::Unsupported,
            "no recipient by RSA",
        ),
        (
            message(&gcm, b"\x30\x05", &[0; 16]),
            Kind::Invalid,
            "malformed",
        ),
        (
            message(&gcm, &good.repeat(MAX_RECIPIENTS + 1), &[0; 16]),
            Kind::Invalid,
            "over 256",
        ),
        (Vec::new(), Kind::Invalid, "malformed"),
    ] {
        let error = Pkcs7::parse(&packet).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn certificates_that_are_none() {
    let large = vec![b' '; 1 << 20];
    for (file, kind, text) in [
        (file("p256-cert.pem"), Kind::Unsupported, "not RSA"),
        (
            file("rsa-pkcs8.pem"),
            Kind::Invalid,
            "no PEM block CERTIFICATE",
        ),
        (file("rsa-pkcs1.der"), Kind::Invalid, "not an X.509"),
        (Vec::new(), Kind::Invalid, "not an X.509"),
        (large, Kind::Invalid, "not a certificate"),
    ] {
        let error = Certificate::parse(&file).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let error = PrivateKey::parse(&file("rsa-cert.pem"), None).unwrap_err();
    assert!(error.hint().unwrap().contains("private key"), "{error}");
}
