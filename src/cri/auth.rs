//! From the CRI's `AuthConfig` to a login.

use nacre_snapshotter_proto::cri::AuthConfig;
use zeroize::Zeroizing;

use crate::{error::Result, source::registry::HandedLogin};

/// The login of a pull; `None` if it has none. Of several forms the one counts that containerd takes;
/// a registry token, which it does not know, comes last.
///
/// # Errors
/// `Invalid` if it is malformed.
pub(super) fn login(auth: AuthConfig) -> Result<Option<HandedLogin>> {
    let AuthConfig {
        username,
        password,
        auth,
        server_address,
        identity_token,
        registry_token,
    } = auth;
    // All of them, so that none stays in memory unused.
    let [password, auth, identity_token, registry_token] =
        [password, auth, identity_token, registry_token].map(Zeroizing::new);
    let login = if !username.is_empty() {
        HandedLogin::basic(username, password)
    } else if !identity_token.is_empty() {
        HandedLogin::identity_token(identity_token)
    } else if !auth.is_empty() {
        HandedLogin::encoded(auth)
    } else if !registry_token.is_empty() {
        HandedLogin::registry_token(registry_token)
    } else {
        return Ok(None);
    };
    Ok(Some(login?.for_server(&server_address)))
}
