//! Stands in for tokens in a build without the feature `pkcs11`.

use zeroize::Zeroizing;

use super::{Answer, Question};
use crate::error::{Error, Result};

/// Reads a question and says that there is no answer.
///
/// # Errors
/// `Invalid` if it is none.
pub(crate) fn answer(question: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let question: Question = serde_json::from_slice(question)
        .map_err(|_| Error::invalid("not a question to a token"))?;
    let module = question.module.display();
    let why = format!("{module}: this nacre was built without PKCS#11 (feature pkcs11)");
    serde_json::to_vec(&Answer::Refused(why))
        .map(Zeroizing::new)
        .map_err(|e| Error::internal("answer of a token").with_source(e))
}
