//! `AES_256_CTR_HMAC_SHA256`'s cipher, at any offset.
//!
//! The key stream of block n is AES-256 of `nonce + n`, a 128-bit big-endian number that wraps. CTR
//! authenticates nothing: what comes out is believed only after a chunk digest or the whole layer's
//! HMAC ([`Authenticator`](super::Authenticator)) agrees.

use std::fmt;

use aes::{
    Aes256Enc,
    cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherSeek},
};
use ctr::{Ctr128BE, CtrCore};

use crate::keys::LayerKey;

/// Encrypts and decrypts (the same operation) a layer's bytes at any offset.
#[derive(Clone)]
pub struct LayerCipher {
    block: Aes256Enc,
    nonce: [u8; 16],
}

// === impl LayerCipher ===

impl LayerCipher {
    /// A cipher from its key and the counter of its first block.
    #[must_use]
    pub fn new(key: &[u8; 32], nonce: [u8; 16]) -> Self {
        Self {
            block: Aes256Enc::new(key.into()),
            nonce,
        }
    }

    /// The cipher of one layer.
    #[must_use]
    pub fn of(key: &LayerKey) -> Self {
        Self::new(key.symmetric(), *key.nonce())
    }

    /// Applies the key stream to the layer's bytes that begin at `offset`, in place.
    pub fn apply(&self, offset: u64, buffer: &mut [u8]) {
        let core = CtrCore::inner_iv_init(self.block.clone(), &self.nonce.into());
        let mut stream = Ctr128BE::<Aes256Enc>::from_core(core);
        stream.seek(offset);
        stream.apply_keystream(buffer);
    }
}

impl fmt::Debug for LayerCipher {
    /// Says that there is a cipher, and nothing of its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerCipher")
    }
}

#[cfg(test)]
mod tests {
    use aes::cipher::BlockCipherEncrypt;
    use proptest::prelude::*;

    use super::*;

    /// What the specification says, block by block.
    fn reference(key: &[u8; 32], nonce: u128, offset: u64, buffer: &mut [u8]) {
        let block = Aes256Enc::new(key.into());
        for (at, byte) in (u128::from(offset)..).zip(buffer) {
            let mut counter = nonce.wrapping_add(at / 16).to_be_bytes().into();
            block.encrypt_block(&mut counter);
            *byte ^= counter[usize::try_from(at % 16).unwrap()];
        }
    }

    #[test]
    fn nist_sp_800_38a_f_5_5() {
        let key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
        let key: [u8; 32] = hex::decode(key).unwrap().try_into().unwrap();
        let nonce = hex::decode("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let cipher = LayerCipher::new(&key, nonce.try_into().unwrap());
        let plain = hex::decode(concat!(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
        ))
        .unwrap();
        let secret = hex::decode(concat!(
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
            "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
        ))
        .unwrap();
        for start in 0..plain.len() {
            let mut buffer = secret[start..].to_vec();
            cipher.apply(start as u64, &mut buffer);
            assert_eq!(buffer, plain[start..], "from {start}");
        }
    }

    #[test]
    fn counter_wraps_at_64_and_128_bits() {
        let key = [7; 32];
        for nonce in [
            u128::MAX,
            u128::MAX - 3,
            u128::from(u64::MAX),
            u128::from(u64::MAX) - 5,
            u128::from(u32::MAX) - 1,
            (0xff << 64) | u128::from(u64::MAX),
        ] {
            let cipher = LayerCipher::new(&key, nonce.to_be_bytes());
            for offset in [0, 1, 15, 16, 17, 33, 64, 95, 160] {
                let (mut ours, mut theirs) = ([0; 300], [0; 300]);
                cipher.apply(offset, &mut ours);
                reference(&key, nonce, offset, &mut theirs);
                assert_eq!(ours, theirs, "nonce {nonce:#x} offset {offset}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_offset(
            key: [u8; 32], nonce: u128, offset in 0..u64::MAX / 2, length in 0_usize..200,
        ) {
            let (mut ours, mut theirs) = (vec![9; length], vec![9; length]);
            LayerCipher::new(&key, nonce.to_be_bytes()).apply(offset, &mut ours);
            reference(&key, nonce, offset, &mut theirs);
            prop_assert_eq!(ours, theirs);
        }
    }
}
