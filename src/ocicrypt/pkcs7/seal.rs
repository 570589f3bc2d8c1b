//! Makes packets in the form that Go's ocicrypt makes and reads.

use aes_gcm::{Aes128Gcm, KeyInit, aead::AeadInOut};
use aws_lc_rs::rsa::Pkcs1PublicEncryptingKey;
use zeroize::Zeroizing;

use super::{
    AES_128_GCM, CONTENT, Certificate, DATA, ENVELOPED_DATA, GO_NONCE, GO_SEQUENCE, MAX_RECIPIENTS,
    RSA_ENCRYPTION,
};
use crate::{
    error::{Error, Result},
    ocicrypt::{
        random::random,
        tlv::{CONTEXT_0, INTEGER, NULL, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, element},
    },
};

/// Wraps `content` for the holder of each certificate.
///
/// # Errors
/// `Invalid` if there are more than are read, `Internal` without randomness.
pub(crate) fn seal(recipients: &[Certificate], content: &[u8]) -> Result<Vec<u8>> {
    if recipients.len() > MAX_RECIPIENTS {
        return Err(Error::invalid(format!(
            "{} PKCS7 recipients, at most {MAX_RECIPIENTS} are read",
            recipients.len()
        )));
    }
    let content_key = random::<16>()?;
    let nonce = random::<12>()?;
    let mut infos = Vec::new();
    for recipient in recipients {
        infos.push(info(recipient, &content_key)?);
    }
    // The order of a SET OF in DER.
    infos.sort();
    let infos: Vec<&[u8]> = infos.iter().map(Vec::as_slice).collect();

    let mut sealed = Zeroizing::new(content.to_vec());
    let tag = Aes128Gcm::new((&*content_key).into())
        .encrypt_inout_detached(&(*nonce).into(), b"", sealed.as_mut_slice().into())
        .map_err(|_| Error::internal("PKCS7: content does not encrypt"))?;
    let parameters = element(
        SEQUENCE,
        &[
            &element(GO_NONCE, &[&nonce[..]]),
            &element(INTEGER, &[&[16]]),
        ],
    );
    let algorithm = element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[AES_128_GCM]),
            &element(GO_SEQUENCE, &[&parameters]),
        ],
    );
    let content = element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[DATA]),
            &algorithm,
            &element(CONTENT, &[&sealed, &tag]),
        ],
    );
    let enveloped = element(
        SEQUENCE,
        &[&element(INTEGER, &[&[0]]), &element(SET, &infos), &content],
    );
    Ok(element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[ENVELOPED_DATA]),
            &element(CONTEXT_0, &[&enveloped]),
        ],
    ))
}

/// One recipient's KeyTransRecipientInfo.
fn info(recipient: &Certificate, content_key: &[u8; 16]) -> Result<Vec<u8>> {
    let failed = |_| Error::internal("PKCS7: RSA encryption");
    let key = Pkcs1PublicEncryptingKey::new(recipient.key.clone()).map_err(failed)?;
    let mut buffer = vec![0; key.ciphertext_size()];
    let encrypted = key.encrypt(content_key, &mut buffer).map_err(failed)?;
    let algorithm = element(
        SEQUENCE,
        &[
            &element(OBJECT_IDENTIFIER, &[RSA_ENCRYPTION]),
            &element(NULL, &[]),
        ],
    );
    Ok(element(
        SEQUENCE,
        &[
            &element(INTEGER, &[&[0]]),
            &element(SEQUENCE, &[&recipient.issuer, &recipient.serial]),
            &algorithm,
            &element(OCTET_STRING, &[encrypted]),
        ],
    ))
}
