//! The file, its defaults and what is refused.

use super::*;

#[test]
fn the_documented_values_are_the_defaults() {
    assert_eq!(Config::parse(DEFAULT).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn every_key_is_documented() {
    let all = toml::Table::try_from(Config::default()).unwrap();
    let documented: toml::Table = DEFAULT.parse().unwrap();
    assert_eq!(all, documented);
}

#[test]
fn what_is_refused_and_why() {
    for (text, wanted) in [
        ("lasy = true", "lasy"),
        ("[snapshotter]\nasync = true", "async"),
        ("[extra]", "extra"),
        ("lazy = \"yes\"", "lazy"),
        ("front_end = \"kernel\"", "kernel"),
        ("hand_over = \"on\"", "on"),
        ("root = \"var\"", "absolute"),
        ("socket = \"nacre.sock\"", "absolute"),
        ("root = \"/a:b\"", "has one of"),
        ("[cri]\nenable = true", "enable"),
        ("[cri]\ncontainerd_socket = \"c.sock\"", "absolute"),
        (
            "socket = \"/s\"\n[cri]\ncontainerd_socket = \"/s\"",
            "nacre's own",
        ),
        ("[log]\nlevel = \"loud\"", "loud"),
        ("[trust]\nconfirm = \"never\"", "insecure_never"),
        ("[registry]\ndeadline_seconds = 0", "at least 1"),
        ("[metrics]\naddress = \"0.0.0.0:1\"", "not on loopback"),
        ("[metrics]\naddress = \":8234\"", "metrics.address"),
        ("[metrics]\nenabled = true", "enabled"),
        ("[registry]\ndeadline_seconds = -1", "-1"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid, "{text}");
        assert!(error.to_string().contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_file_that_was_named_must_exist() {
    let missing = Path::new("/nonexistent/nacre.toml");
    let error = Config::load(Some(missing)).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::NotFound);
}

#[test]
fn parts_are_built_and_their_errors_name_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"reject"}]}"#).unwrap();
    let surroundings = Surroundings {
        home: None,
        variable: |_| None,
    };
    let mut config = Config {
        root: directory.path().join("root"),
        trust: TrustConfig {
            policy,
            ..TrustConfig::default()
        },
        ..Config::default()
    };
    std::fs::create_dir(&config.root).unwrap();
    let opener = config.images(&surroundings, None).unwrap();
    assert!(!opener.insecure_plaintext_store);
    assert!(config.root.join("store").is_dir());
    drop(opener);

    config.keys.decryption_keys = vec!["provider:".to_owned()];
    let error = config.keyring().unwrap_err().to_string();
    assert!(error.contains("keys.decryption_keys"), "{error}");
    config.registry.platform = "///".to_owned();
    let error = config.platform().unwrap_err().to_string();
    assert!(error.contains("registry.platform"), "{error}");
    config.store.size_mib = u64::MAX;
    let error = config.store().unwrap_err().to_string();
    assert!(error.contains("store.size_mib"), "{error}");
}

#[test]
fn passwords_are_not_shown() {
    let text = r#"keys.decryption_keys = ["a.pem:pass=secret:file=x", "b.pem", "c.pem:file=pw"]"#;
    let shown = Config::parse(text).unwrap().without_secrets();
    let keys = ["a.pem:pass=(not shown)", "b.pem", "c.pem:file=pw"];
    assert_eq!(shown.keys.decryption_keys, keys);
}
