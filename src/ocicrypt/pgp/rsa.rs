//! RSA keys of OpenPGP, used by aws-lc-rs: constant time, blinded.

use std::fmt;

use pgp::{
    composed::{PlainSessionKey, RawSessionKey},
    crypto::{rsa::SecretKey, sym::SymmetricKeyAlgorithm},
    ser::Serialize as _,
    types::{EskType, PublicParams},
};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    ocicrypt::{
        private_key::{PrivateKey, RsaKey},
        tlv::{INTEGER, SEQUENCE, element},
    },
};

/// A key that decrypts session keys.
pub(super) struct RsaSecret(Box<RsaKey>);

type Number = Zeroizing<Vec<u8>>;

// === impl RsaSecret ===

impl RsaSecret {
    /// Takes the numbers of a key that was unlocked.
    ///
    /// # Errors
    /// `Unsupported` if it is none of 2048 to 8192 bits.
    pub(super) fn new(public: &PublicParams, secret: &SecretKey) -> Result<Self> {
        let malformed = || Error::invalid("OpenPGP: malformed RSA key");
        let PublicParams::RSA(public) = public else {
            return Err(malformed());
        };
        let public = public.to_bytes().map_err(|_| malformed())?;
        let (n, rest) = mpi(&public).ok_or_else(malformed)?;
        let (e, _) = mpi(rest).ok_or_else(malformed)?;
        let (d, p, q, u) = secret.to_bytes();
        let [d, p, q, u] = [d, p, q, u].map(Zeroizing::new);
        // PKCS#1 wants q's inverse modulo p, OpenPGP has p's modulo q: so they change places.
        let (dq, dp) = (reduce(&d, &less_one(&q)), reduce(&d, &less_one(&p)));
        let numbers: [&[u8]; 9] = [&[0], n, e, &d, &q, &p, &dq, &dp, &u];
        let parts: Vec<Number> = numbers.into_iter().map(integer).collect();
        let parts: Vec<&[u8]> = parts.iter().map(|it| &it[..]).collect();
        let der = Zeroizing::new(element(SEQUENCE, &parts));
        match PrivateKey::parse(&der, None)? {
            PrivateKey::Rsa(key) => Ok(Self(key)),
            PrivateKey::Ec(..) => Err(malformed()),
        }
    }

    /// The session key in a number that was encrypted for this key.
    pub(super) fn session_key(&self, encrypted: &[u8], kind: EskType) -> Option<PlainSessionKey> {
        let key = &self.0.pkcs1;
        let mut buffer = Zeroizing::new(vec![0; key.min_output_size()]);
        // The number is as long as the modulus, whose leading zeros OpenPGP leaves out.
        let size = key.key_size_bytes();
        let mut padded = vec![0; size.checked_sub(encrypted.len())?];
        padded.extend_from_slice(encrypted);
        let plain = key.decrypt(&padded, &mut buffer).ok()?;
        let (body, check) = plain.split_at_checked(plain.len().checked_sub(2)?)?;
        let (algorithm, key) = match kind {
            EskType::V3_4 => body
                .split_first()
                .map(|(algorithm, key)| (Some(*algorithm), key))?,
            EskType::V6 => (None, body),
        };
        let sum = key
            .iter()
            .fold(0_u16, |sum, &byte| sum.wrapping_add(byte.into()));
        if check != sum.to_be_bytes() {
            return None;
        }
        let key = RawSessionKey::from(key);
        Some(match algorithm {
            Some(algorithm) => PlainSessionKey::V3_4 {
                sym_alg: SymmetricKeyAlgorithm::from(algorithm),
                key,
            },
            None => PlainSessionKey::V6 { key },
        })
    }
}

impl fmt::Debug for RsaSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RsaSecret")
    }
}

/// A number of OpenPGP, and what follows it.
fn mpi(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (bits, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*bits)).div_ceil(8))
}

/// A number as DER has it.
fn integer(number: &[u8]) -> Number {
    let skip = number.iter().take_while(|&&byte| byte == 0).count();
    let number = &number[skip.min(number.len() - 1)..];
    let sign: &[u8] = if number[0] >= 0x80 { &[0] } else { &[] };
    Zeroizing::new(element(INTEGER, &[sign, number]))
}

/// An odd number less one.
fn less_one(number: &[u8]) -> Number {
    let mut less = Zeroizing::new(number.to_vec());
    if let Some(last) = less.last_mut() {
        *last &= !1;
    }
    less
}

/// `number` modulo `modulus`, bit by bit; what it does depends on their lengths alone.
fn reduce(number: &[u8], modulus: &[u8]) -> Number {
    // One byte more than the modulus: doubled, the remainder may not fit.
    let size = modulus.len() + 1;
    let mut remainder = Zeroizing::new(vec![0_u8; size]);
    let mut less = Zeroizing::new(vec![0_u8; size]);
    for bit in number
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |n| (byte >> n) & 1))
    {
        let mut carry = bit;
        for byte in remainder.iter_mut().rev() {
            let high = *byte >> 7;
            *byte = (*byte << 1) | carry;
            carry = high;
        }
        let mut borrow = 0_u16;
        for (n, slot) in less.iter_mut().enumerate().rev() {
            let minus = n.checked_sub(1).map_or(0, |n| u16::from(modulus[n]));
            let difference = u16::from(remainder[n]).wrapping_sub(minus + borrow);
            *slot = difference.to_be_bytes()[1];
            borrow = difference >> 15;
        }
        // All ones if the subtraction borrowed: then the remainder stays.
        let keep = 0_u8.wrapping_sub(borrow.to_be_bytes()[1]);
        for (byte, less) in remainder.iter_mut().zip(less.iter()) {
            *byte = (*byte & keep) | (less & !keep);
        }
    }
    remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders() {
        let value = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0_u128, |sum, &b| (sum << 8) | u128::from(b))
        };
        let numbers = [0, 1, 2, 255, 256, 0xdead_beef_0bad_cafe, u64::MAX];
        for number in numbers {
            for modulus in numbers.into_iter().skip(1) {
                let got = reduce(&number.to_be_bytes(), &modulus.to_be_bytes());
                assert_eq!(
                    value(&got),
                    u128::from(number % modulus),
                    "{number} {modulus}"
                );
            }
        }
        let long = reduce(&[0xff; 40], &[0x01, 0x00, 0x01]);
        // 2^320 - 1 modulo 2^16 + 1: 2^16 is -1, so 2^320 is 1.
        assert_eq!(value(&long), 0);
    }

    #[test]
    fn numbers_of_both_formats() {
        assert_eq!(mpi(&[0, 9, 1, 2, 3]), Some((&[1, 2][..], &[3][..])));
        assert_eq!(mpi(&[0, 9, 1]), None);
        assert_eq!(integer(&[0, 0])[..], [2, 1, 0]);
        assert_eq!(integer(&[0, 0x80])[..], [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0x7f, 1])[..], [2, 2, 0x7f, 1]);
        assert_eq!(less_one(&[1, 3])[..], [1, 2]);
    }
}
