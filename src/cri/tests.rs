//! What is read of a pull on its way. Calls in full: `tests/cri_proxy.rs`.

use nacre_snapshotter_proto::cri::AuthConfig;

use super::auth;

fn said(auth: AuthConfig) -> String {
    match auth::login(auth) {
        Ok(Some(login)) => format!("{login:?}"),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn of_several_forms_the_one_counts_that_containerd_takes() {
    let all = AuthConfig {
        username: "u".into(),
        password: "s3cret".into(),
        auth: "dTpzM2NyZXQ=".into(),
        identity_token: "s3cret".into(),
        registry_token: "s3cret".into(),
        ..AuthConfig::default()
    };
    assert!(!format!("{all:?}").contains("s3cret"), "{all:?}");
    assert_eq!(said(all.clone()), "HandedLogin(Basic)");
    let no_user = AuthConfig {
        username: String::new(),
        ..all.clone()
    };
    assert_eq!(said(no_user), "HandedLogin(Identity)");
    let only_auth = AuthConfig {
        auth: all.auth,
        ..AuthConfig::default()
    };
    assert_eq!(said(only_auth), "HandedLogin(Basic)");
    let only_token = AuthConfig {
        registry_token: all.registry_token,
        ..AuthConfig::default()
    };
    assert_eq!(said(only_token), "HandedLogin(Token)");
    assert_eq!(said(AuthConfig::default()), "none");
    let password_only = AuthConfig {
        password: "s3cret".into(),
        ..AuthConfig::default()
    };
    assert_eq!(said(password_only), "none", "as containerd");
}

#[test]
fn a_malformed_login_is_not_quoted() {
    for auth in ["s3cret!", "czNjcmV0"] {
        let auth = AuthConfig {
            auth: auth.into(),
            ..AuthConfig::default()
        };
        assert_eq!(said(auth), "want base64 of user:password");
    }
}
