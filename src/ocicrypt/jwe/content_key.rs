//! The content key of one recipient: RSA-OAEP, or ECDH-ES with AES key wrap (RFC 7518).

use aes::{Aes128, Aes192, Aes256};
use aes_kw::{AesKw, KeyInit};
use aws_lc_rs::{
    agreement::{self, UnparsedPublicKey},
    rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Header, invalid};
use crate::{
    error::{Error, Result},
    ocicrypt::private_key::{Curve, PrivateKey},
};

type ContentKey = Zeroizing<[u8; 32]>;

/// Longest `apu` or `apv`: names of parties. go-jose writes none.
const MAX_PARTY: usize = 4 << 10;

/// Unwraps a recipient's content key; `None` if `key` is not the recipient's.
///
/// # Errors
/// `Unsupported` for an algorithm that is not known, `Invalid` for a malformed header.
pub(super) fn unwrap(
    header: &Header,
    encrypted_key: &[u8],
    key: &PrivateKey,
) -> Result<Option<ContentKey>> {
    let algorithm = header
        .text("alg")
        .ok_or_else(|| invalid("a recipient has no alg"))?;
    let bits = match algorithm {
        "RSA-OAEP" | "RSA-OAEP-256" => {
            let PrivateKey::Rsa(key) = key else {
                return Ok(None);
            };
            return Ok(unwrap_rsa(algorithm, encrypted_key, &key.oaep));
        }
        "ECDH-ES+A128KW" => 128,
        "ECDH-ES+A192KW" => 192,
        "ECDH-ES+A256KW" => 256,
        other => {
            return Err(Error::unsupported(format!(
                "JWE key algorithm {other:?}: RSA-OAEP, RSA-OAEP-256 and ECDH-ES+A128KW, A192KW, \
                 A256KW are known"
            )));
        }
    };
    let PrivateKey::Ec(curve, key) = key else {
        return Ok(None);
    };
    let Some(peer) = peer(header, *curve)? else {
        return Ok(None);
    };
    let (apu, apv) = (party(header, "apu")?, party(header, "apv")?);
    agreement::agree(
        key,
        UnparsedPublicKey::new(curve.agreement(), peer),
        invalid("epk is not a point of its curve"),
        |secret| {
            let wrapping = concat_kdf(secret, algorithm, &apu, &apv, bits);
            Ok(unwrap_aes(&wrapping, encrypted_key))
        },
    )
}

fn unwrap_rsa(
    algorithm: &str,
    encrypted_key: &[u8],
    key: &OaepPrivateDecryptingKey,
) -> Option<ContentKey> {
    let padding = match algorithm {
        "RSA-OAEP" => &OAEP_SHA1_MGF1SHA1,
        _ => &OAEP_SHA256_MGF1SHA256,
    };
    let mut buffer = Zeroizing::new(vec![0; key.min_output_size()]);
    let plain = key
        .decrypt(padding, encrypted_key, &mut buffer, None)
        .ok()?;
    content_key(plain)
}

fn unwrap_aes(wrapping: &[u8], encrypted_key: &[u8]) -> Option<ContentKey> {
    let mut buffer = Zeroizing::new([0; 32]);
    // The key and eight bytes of check value.
    if encrypted_key.len() != buffer.len() + 8 {
        return None;
    }
    match wrapping.len() {
        16 => AesKw::<Aes128>::new_from_slice(wrapping)
            .ok()?
            .unwrap_key(encrypted_key, &mut buffer[..])
            .ok()?,
        24 => AesKw::<Aes192>::new_from_slice(wrapping)
            .ok()?
            .unwrap_key(encrypted_key, &mut buffer[..])
            .ok()?,
        _ => AesKw::<Aes256>::new_from_slice(wrapping)
            .ok()?
            .unwrap_key(encrypted_key, &mut buffer[..])
            .ok()?,
    };
    Some(buffer)
}

fn content_key(plain: &[u8]) -> Option<ContentKey> {
    let mut key = Zeroizing::new([0; 32]);
    (plain.len() == key.len()).then(|| key.copy_from_slice(plain))?;
    Some(key)
}

/// The ephemeral public key as an uncompressed point; `None` if it is on another curve.
fn peer(header: &Header, curve: Curve) -> Result<Option<Vec<u8>>> {
    let epk = header
        .value("epk")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| invalid("a recipient has no epk"))?;
    let field = |name: &str| epk.get(name).and_then(serde_json::Value::as_str);
    if field("kty") != Some("EC") || field("crv") != Some(curve.name()) {
        return Ok(None);
    }
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = field(name)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .filter(|bytes| bytes.len() == curve.bytes())
            .ok_or_else(|| {
                invalid(format!(
                    "epk: {name} is not {} bytes of base64url",
                    curve.bytes()
                ))
            })?;
        point.extend_from_slice(&coordinate);
    }
    Ok(Some(point))
}

fn party(header: &Header, name: &str) -> Result<Vec<u8>> {
    let Some(value) = header.value(name) else {
        return Ok(Vec::new());
    };
    value
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .filter(|bytes| bytes.len() <= MAX_PARTY)
        .ok_or_else(|| {
            invalid(format!(
                "{name} is not base64url of at most {MAX_PARTY} bytes"
            ))
        })
}

/// RFC 7518 section 4.6.2 for keys of at most 256 bits, which take one round.
pub(super) fn concat_kdf(
    secret: &[u8],
    algorithm: &str,
    apu: &[u8],
    apv: &[u8],
    bits: u32,
) -> Zeroizing<Vec<u8>> {
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(secret);
    for part in [algorithm.as_bytes(), apu, apv] {
        let length = u32::try_from(part.len()).expect("parts are bounded by MAX_PARTY");
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    hash.update(bits.to_be_bytes());
    let mut derived = Zeroizing::new(hash.finalize().to_vec());
    derived.truncate(bits as usize / 8);
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_7518_appendix_c() {
        let secret = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49,
            110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        let derived = concat_kdf(&secret, "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(
            URL_SAFE_NO_PAD.encode(&derived[..]),
            "VqqN6vgjbSBcIijNcacQGg"
        );
    }

    #[test]
    fn rfc_3394_section_4_6() {
        // 256 bits of key data with a 256-bit key.
        let wrapping: Vec<u8> = (0..32).collect();
        let wrapped = hex::decode(
            "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
        )
        .unwrap();
        let plain = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f";
        let key = unwrap_aes(&wrapping, &wrapped).unwrap();
        assert_eq!(hex::encode(&key[..]), plain);
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            assert!(unwrap_aes(&wrapping, &flipped).is_none());
        }
        assert!(unwrap_aes(&wrapping, &wrapped[..32]).is_none());
    }
}
