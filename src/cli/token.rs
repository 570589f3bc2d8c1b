//! `nacre token`: one operation of a PKCS#11 token, for the nacre that started it. Not for users.

use std::io::{self, Read as _, Write as _};

use clap::Args;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    keys,
};

/// Options of `nacre token`: there are none, the question comes on standard input.
#[derive(Debug, Args)]
pub(super) struct Token {}

/// Longest question: 64 blobs of 8192 bits.
const MAX_QUESTION: u64 = 1 << 20;

// === impl Token ===

impl Token {
    #[allow(clippy::unused_self, reason = "as every subcommand")]
    pub(super) fn run(self) -> Result<()> {
        let failed = |e| Error::io("nacre token", e);
        let mut question = Zeroizing::new(Vec::with_capacity(64 << 10));
        let mut input = io::stdin().lock().take(MAX_QUESTION);
        input.read_to_end(&mut question).map_err(failed)?;
        let answer = keys::answer_for_token(&question)?;
        io::stdout().write_all(&answer).map_err(failed)
    }
}
