//! Private keys as cosign encrypts them: JSON in PEM, scrypt for the password, NaCl's secretbox
//! (XSalsa20 and Poly1305) around the PKCS#8 key.

use poly1305::{Poly1305, universal_hash::KeyInit as _};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    ocicrypt::json::SecretBytes,
};

/// What the PEM block is called, now and by cosign 1.
pub(super) const LABELS: [&str; 2] = [
    "ENCRYPTED SIGSTORE PRIVATE KEY",
    "ENCRYPTED COSIGN PRIVATE KEY",
];

#[derive(Deserialize)]
struct Document {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: SecretBytes,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Parameters,
    salt: SecretBytes,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: SecretBytes,
}

/// Most memory that a key may ask for: cosign's take 64 MiB, its older ones 32.
const MAX_MEMORY: u64 = 512 << 20;
/// Most repetitions: cosign's take one.
const MAX_PARALLEL: u32 = 16;
const TAG: usize = 16;

/// The PKCS#8 key in the contents of a PEM block.
///
/// # Errors
/// `Denied` if the password is missing or wrong, `Unsupported` if it was encrypted in another way,
/// `Invalid` if it is malformed.
pub(super) fn decrypt(block: &[u8], password: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>> {
    let document: Document = serde_json::from_slice(block).map_err(|e| {
        Error::invalid(format!(
            "not a key that cosign encrypted: malformed at line {} column {}",
            e.line(),
            e.column()
        ))
    })?;
    let Document {
        kdf,
        cipher,
        ciphertext,
    } = document;
    if kdf.name != "scrypt" || cipher.name != "nacl/secretbox" {
        return Err(Error::unsupported(format!(
            "encrypted by {} and {}; scrypt and nacl/secretbox are known",
            kdf.name, cipher.name
        )));
    }
    let password = password.ok_or_else(|| {
        Error::denied("the key is encrypted and no password was given")
            .with_hint("put its password into COSIGN_PASSWORD")
    })?;
    let nonce: [u8; 24] = cipher.nonce.0[..].try_into().map_err(|_| {
        Error::invalid(format!(
            "a nonce of {} bytes, want 24",
            cipher.nonce.0.len()
        ))
    })?;
    let key = derive(&kdf, password)?;
    open(&key, &nonce, &ciphertext.0).ok_or_else(|| {
        Error::denied("the password does not fit").with_hint("check COSIGN_PASSWORD")
    })
}

fn derive(kdf: &Kdf, password: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let Parameters { n, r, p } = kdf.params;
    let memory = n.saturating_mul(u64::from(r)).saturating_mul(128);
    let fits = n.is_power_of_two() && memory <= MAX_MEMORY && (1..=MAX_PARALLEL).contains(&p);
    let log_n = u8::try_from(n.trailing_zeros()).ok().filter(|_| fits);
    let parameters = log_n.and_then(|log_n| scrypt::Params::new(log_n, r, p).ok());
    let parameters = parameters.ok_or_else(|| {
        Error::invalid(format!("absurd parameters of scrypt: N={n}, r={r}, p={p}"))
    })?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, &kdf.salt.0, &parameters, &mut key[..])
        .map_err(|_| Error::internal("scrypt"))?;
    Ok(key)
}

/// `crypto_secretbox_open`: the tag, then the ciphertext; the first bytes of the key stream are the
/// authenticator's key.
fn open(key: &[u8; 32], nonce: &[u8; 24], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (tag, ciphertext) = sealed.split_at_checked(TAG)?;
    let mut cipher = XSalsa20::new(key.into(), nonce.into());
    let mut authenticator = Zeroizing::new([0; 32]);
    cipher.apply_keystream(&mut authenticator[..]);
    let found = Poly1305::new((&*authenticator).into()).compute_unpadded(ciphertext);
    aws_lc_rs::constant_time::verify_slices_are_equal(&found, tag).ok()?;
    let mut plain = Zeroizing::new(ciphertext.to_vec());
    cipher.apply_keystream(&mut plain);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn nacl_test_vector() {
        // From the tests of NaCl (secretbox.c): key, nonce, message.
        let key = hex::decode("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex::decode("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let plain = "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705";
        let (key, nonce) = (key.unwrap(), nonce.unwrap());
        let (key, nonce) = (&key[..].try_into().unwrap(), &nonce[..].try_into().unwrap());
        let sealed = hex::decode(sealed).unwrap();
        assert_eq!(hex::encode(&open(key, nonce, &sealed).unwrap()[..]), plain);
        for at in [0, 15, 16, sealed.len() - 1] {
            let mut turned = sealed.clone();
            turned[at] ^= 1;
            assert!(open(key, nonce, &turned).is_none());
        }
        assert!(open(key, nonce, &sealed[..15]).is_none());
    }

    #[test]
    fn refuses_what_it_cannot_open() {
        let document = |kdf: &str, n: u64, cipher: &str, nonce: &str| {
            format!(
                r#"{{"kdf":{{"name":"{kdf}","params":{{"N":{n},"r":8,"p":1}},"salt":"AAAA"}},
                "cipher":{{"name":"{cipher}","nonce":"{nonce}"}},"ciphertext":"{}"}}"#,
                "A".repeat(64)
            )
        };
        let nonce = &"A".repeat(32);
        let good = document("scrypt", 16, "nacl/secretbox", nonce);
        for (text, password, kind, said) in [
            (&good, None, Kind::Denied, "no password"),
            (&good, Some(""), Kind::Denied, "does not fit"),
            (&"{}".to_owned(), Some(""), Kind::Invalid, "malformed"),
            (
                &document("argon2", 16, "nacl/secretbox", nonce),
                Some(""),
                Kind::Unsupported,
                "argon2",
            ),
            (
                &document("scrypt", 16, "aes", nonce),
                Some(""),
                Kind::Unsupported,
                "aes",
            ),
            (
                &document("scrypt", 16, "nacl/secretbox", "AAAA"),
                Some(""),
                Kind::Invalid,
                "a nonce of 3 bytes",
            ),
            (
                &document("scrypt", 1 << 40, "nacl/secretbox", nonce),
                Some(""),
                Kind::Invalid,
                "absurd",
            ),
            (
                &document("scrypt", 17, "nacl/secretbox", nonce),
                Some(""),
                Kind::Invalid,
                "absurd",
            ),
        ] {
            let error = decrypt(text.as_bytes(), password.map(str::as_bytes)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
