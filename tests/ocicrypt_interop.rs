//! What the Go implementation of ocicrypt wraps and encrypts, nacre opens, and the other way round: JWK
//! recipients of every algorithm, certificates, key providers as a command and over gRPC.
//! `tests/go/ocicrypt-interop` is the Go side.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use nacre::{
    error::Kind,
    keys::{KeyConfig, Keyring},
    oci::{Descriptor, Digest},
    ocicrypt::{DecryptingSource, authenticate, packets},
    source::MemoryBlob,
};
use nacre_snapshotter_proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput as Input, KeyProviderKeyWrapProtocolOutput as Output,
    key_provider_service_server::{KeyProviderService, KeyProviderServiceServer},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Response, Status};

mod support;

use support::{go, images::small_files_image, program};

const PLAIN: &[u8] = b"a plain blob of more than one block, whose bytes Go encrypts and we decrypt";

/// A layer that the Go side encrypted.
struct Encrypted {
    layer: Descriptor,
    ciphertext: Vec<u8>,
}

/// The built Go program; says why, if there is none.
fn go_program() -> Option<&'static Path> {
    static BUILT: OnceLock<Result<go::GoProgram, String>> = OnceLock::new();
    match BUILT.get_or_init(|| go::build("ocicrypt-interop")) {
        Ok(program) => Some(&program.path),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Has the Go side encrypt [`PLAIN`]; blocks, so call it off the runtime's only thread.
fn encrypt(program: &Path, recipients: &[String], providers: Option<&Path>) -> Encrypted {
    let mut command = Command::new(program);
    match providers {
        Some(path) => command.env("OCICRYPT_KEYPROVIDER_CONFIG", path),
        None => command.env_remove("OCICRYPT_KEYPROVIDER_CONFIG"),
    };
    encrypt_by(command, recipients)
}

fn encrypt_by(mut command: Command, recipients: &[String]) -> Encrypted {
    command.arg("encrypt").args(recipients);
    let result: Value = serde_json::from_slice(&run(&mut command, PLAIN)).unwrap();
    let ciphertext = STANDARD
        .decode(result["ciphertext"].as_str().unwrap())
        .unwrap();
    let mut layer = Descriptor::of(
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        &ciphertext,
    );
    layer.annotations = serde_json::from_value(result["annotations"].clone()).unwrap();
    Encrypted { layer, ciphertext }
}

/// Opens and reads the layer, whole and in part.
async fn check(image: &Encrypted, config: &KeyConfig, packet: &str) {
    let key = Keyring::new(config)
        .unwrap()
        .unwrap(&image.layer)
        .await
        .unwrap();
    assert_eq!(key.packet(), packet);
    assert_eq!(key.plain_digest(), Some(&Digest::sha256(PLAIN)));
    let blob = Arc::new(MemoryBlob::new(Bytes::from(image.ciphertext.clone())));
    authenticate(&*blob, &key).await.unwrap();
    let source = DecryptingSource::new(blob, &key);
    assert_eq!(source.read_at(17..40).await.unwrap(), PLAIN[17..40]);
    let mut stream = source.stream().await.unwrap();
    let mut whole = Vec::new();
    while let Some(piece) = stream.next().await {
        whole.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(whole, PLAIN);
}

fn write(directory: &TempDir, name: &str, json: &Value) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

fn with_providers(path: &Path, parameter: Option<&str>) -> KeyConfig {
    let mut config = KeyConfig {
        keyprovider_config: Some(path.to_owned()),
        ..KeyConfig::default()
    };
    if let Some(parameter) = parameter {
        config
            .add_decryption_key(&format!("provider:{parameter}"))
            .unwrap();
    }
    config
}

#[tokio::test]
async fn jwk_recipients_of_every_algorithm() {
    let Some(program) = go_program() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let rsa: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"];
    let ec = |curve: &'static str| vec!["-algorithm", "EC", "-pkeyopt", curve];
    let mut recipients = Vec::new();
    let mut keys = Vec::new();
    for (at, (algorithm, options)) in [
        ("RSA-OAEP", rsa.to_vec()),
        ("RSA-OAEP-256", rsa.to_vec()),
        ("ECDH-ES+A128KW", ec("ec_paramgen_curve:P-256")),
        ("ECDH-ES+A192KW", ec("ec_paramgen_curve:P-384")),
        ("ECDH-ES+A256KW", ec("ec_paramgen_curve:P-521")),
        ("ECDH-ES+A128KW", ec("ec_paramgen_curve:P-521")),
    ]
    .into_iter()
    .enumerate()
    {
        let [pem, private, public] = ["pem", "jwk", "pub"].map(|end| file(&format!("{at}.{end}")));
        let made = Command::new("openssl")
            .args(["genpkey", "-out", &pem])
            .args(options)
            .output()
            .map(|output| output.status.success());
        if made.is_err() {
            println!("skipped: openssl is not installed");
            return;
        }
        run(
            Command::new(program).args(["jwk", algorithm, &pem, &private, &public]),
            b"",
        );
        let image = encrypt(program, &[format!("jwe:{public}")], None);
        assert_eq!(packets(&image.layer)[0].algorithms, [algorithm]);
        for key in [&pem, &private] {
            let mut config = KeyConfig::default();
            config.add_decryption_key(key).unwrap();
            check(&image, &config, "jwe").await;
        }
        recipients.push(format!("jwe:{public}"));
        keys.push(private);
    }
    let image = encrypt(program, &recipients, None);
    assert_eq!(packets(&image.layer)[0].recipients, Some(6));
    for key in keys {
        let mut config = KeyConfig::default();
        config.add_decryption_key(&key).unwrap();
        check(&image, &config, "jwe").await;
    }
}

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ocicrypt/keys");

#[tokio::test]
async fn certificates() {
    let Some(program) = go_program() else {
        return;
    };
    let recipient = format!("pkcs7:{KEYS}/rsa-cert.pem");
    let mut config = KeyConfig::default();
    // Twice the same recipient: two packets' worth of tries, one of which opens.
    for recipients in [vec![recipient.clone()], vec![recipient.clone(), recipient]] {
        let image = encrypt(program, &recipients, None);
        assert_eq!(packets(&image.layer)[0].recipients, Some(recipients.len()));
        config.private_keys.clear();
        config
            .add_decryption_key(&format!("{KEYS}/rsa-pkcs8.pem"))
            .unwrap();
        check(&image, &config, "pkcs7").await;
        config.private_keys.clear();
        config
            .add_decryption_key(&format!("{KEYS}/p256-sec1.pem"))
            .unwrap();
        let keyring = Keyring::new(&config).unwrap();
        assert_eq!(
            keyring.unwrap(&image.layer).await.unwrap_err().kind(),
            Kind::Denied
        );
    }
}

/// Encrypts an image of one layer by the program, and has the Go side decrypt it by each of `keys`.
fn go_opens(go: &Path, recipients: &[&str], keys: &[&[&str]], providers: Option<&Path>) {
    let home = tempfile::tempdir().unwrap();
    let image = small_files_image(&home.path().join("image"), 300);
    let target = home.path().join("encrypted");
    let mut words = vec!["--json".to_owned(), "image".into(), "encrypt".into()];
    words.extend([image.reference(), format!("oci:{}:1", target.display())]);
    for recipient in recipients {
        words.extend(["--recipient".into(), (*recipient).to_owned()]);
    }
    if let Some(path) = providers {
        words.extend(["--keyprovider-config".into(), path.display().to_string()]);
    }
    let report = program::run(home.path(), &words).json();
    let blob = |layout: &Path, digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        std::fs::read(layout.join("blobs").join(path)).unwrap()
    };
    let manifest: Value = serde_json::from_slice(&blob(&target, &report["digest"])).unwrap();
    let layer = &manifest["layers"][0];
    let descriptor = write(&home, "descriptor.json", layer);
    let plain = blob(&image.layout, &report["layers"][0]["from"]);
    for keys in keys {
        let mut command = Command::new(go);
        command.arg("decrypt").arg(&descriptor).args(*keys);
        match providers {
            Some(path) => command.env("OCICRYPT_KEYPROVIDER_CONFIG", path),
            None => command.env_remove("OCICRYPT_KEYPROVIDER_CONFIG"),
        };
        let opened = run(&mut command, &blob(&target, &layer["digest"]));
        assert!(opened == plain, "{keys:?}: {} bytes", opened.len());
    }
}

#[test]
fn go_opens_what_nacre_wraps() {
    let Some(program) = go_program() else {
        return;
    };
    let [rsa, p256, p521] =
        ["rsa-pkcs8.pem", "p256-pkcs8.der", "p521-pkcs8.pem"].map(|name| format!("{KEYS}/{name}"));
    let [jwe_rsa, jwe_p256, jwe_p521] =
        ["rsa-pub.pem", "p256-pub.pem", "p521-pub.pem"].map(|name| format!("jwe:{KEYS}/{name}"));
    let certificate = format!("{KEYS}/rsa-cert.pem");
    let pkcs7 = format!("pkcs7:{certificate}");
    for (recipient, key) in [(&jwe_rsa, &rsa), (&jwe_p256, &p256), (&jwe_p521, &p521)] {
        go_opens(program, &[recipient], &[&[key]], None);
    }
    let both = [rsa.as_str(), &certificate];
    go_opens(program, &[&pkcs7], &[&both], None);
    go_opens(
        program,
        &[&jwe_rsa, &jwe_p256, &jwe_p521, &pkcs7],
        &[&[&rsa], &[&p256], &[&p521], &both],
        None,
    );
}

#[test]
fn go_opens_what_a_key_provider_wraps_for_nacre() {
    let Some(program) = go_program() else {
        return;
    };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/ocicrypt/keyprovider.py"
    );
    let config = json!({"key-providers": {"shift": {
        "cmd": {"path": "python3", "args": [script, "base64"]},
    }}});
    let config = write(&directory, "providers.json", &config);
    for word in ["provider:shift", "provider:shift:a longer parameter"] {
        go_opens(program, &[word], &[&[word]], Some(&config));
    }
}

#[tokio::test]
async fn key_provider_command() {
    let Some(program) = go_program() else {
        return;
    };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/ocicrypt/keyprovider.py"
    );
    // Go writes base64 and wants it or an array; CoCo's Rust side writes arrays.
    for form in ["base64", "array"] {
        let config = json!({"key-providers": {"shift": {
            "cmd": {"path": "python3", "args": [script, form]},
        }}});
        let config = write(&directory, "providers.json", &config);
        for parameter in ["shift", "shift:a longer parameter"] {
            let image = encrypt(program, &[format!("provider:{parameter}")], Some(&config));
            assert_eq!(packets(&image.layer)[0].kind, "provider.shift");
            let parameter = parameter.contains(':').then_some(parameter);
            check(&image, &with_providers(&config, parameter), "provider").await;

            let other = with_providers(&config, Some("shift:another one"));
            let error = Keyring::new(&other)
                .unwrap()
                .unwrap(&image.layer)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Denied);
            assert!(
                error.to_string().contains("another parameter wrapped"),
                "{error}"
            );
        }
    }
}

/// Wraps by reversing.
struct Reverse;

impl Reverse {
    fn answer(request: Request<Input>, from: [&str; 2], to: [&str; 2]) -> Response<Output> {
        let request = request.into_inner().key_provider_key_wrap_protocol_input;
        let request: Value = serde_json::from_slice(&request).unwrap();
        let mut bytes: Vec<u8> = match &request[from[0]][from[1]] {
            Value::String(text) => STANDARD.decode(text).unwrap(),
            array => serde_json::from_value(array.clone()).unwrap(),
        };
        bytes.reverse();
        let reply = json!({to[0]: {to[1]: bytes}}).to_string().into_bytes();
        Response::new(Output {
            key_provider_key_wrap_protocol_output: reply,
        })
    }
}

#[tonic::async_trait]
impl KeyProviderService for Reverse {
    async fn wrap_key(&self, request: Request<Input>) -> Result<Response<Output>, Status> {
        let (from, to) = (
            ["keywrapparams", "optsdata"],
            ["keywrapresults", "annotation"],
        );
        Ok(Self::answer(request, from, to))
    }

    async fn un_wrap_key(&self, request: Request<Input>) -> Result<Response<Output>, Status> {
        let (from, to) = (
            ["keyunwrapparams", "annotation"],
            ["keyunwrapresults", "optsdata"],
        );
        Ok(Self::answer(request, from, to))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_provider_server() {
    let Some(program) = go_program() else {
        return;
    };
    let incoming =
        tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(KeyProviderServiceServer::new(Reverse))
            .serve_with_incoming(incoming),
    );
    let directory = tempfile::tempdir().unwrap();
    let config = json!({"key-providers": {"reverse": {"grpc": address}}});
    let config = write(&directory, "providers.json", &config);
    let image = encrypt(program, &["provider:reverse".to_owned()], Some(&config));
    check(&image, &with_providers(&config, None), "provider").await;
    let (go, path) = (program.to_owned(), config.clone());
    let ours = move || {
        let word = ["provider:reverse"];
        go_opens(&go, &word, &[&word], Some(&path));
    };
    tokio::task::spawn_blocking(ours).await.unwrap();

    server.abort();
    let _ = server.await;
    let keyring = Keyring::new(&with_providers(&config, None)).unwrap();
    let error = keyring.unwrap(&image.layer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains(&address), "{error}");
    let none = Keyring::new(&KeyConfig::default()).unwrap();
    let error = none.unwrap(&image.layer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.hint().unwrap().contains("key provider \"reverse\""),
        "{error}"
    );
}

#[cfg(feature = "pgp")]
#[tokio::test]
async fn openpgp_recipients() {
    let Some(program) = go_program() else {
        return;
    };
    if Command::new("gpg").arg("--version").output().is_err() {
        println!("skipped: gpg is not installed (scripts/install-peers)");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let gpg = |words: &[&str]| {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--pinentry-mode", "loopback"]);
        run(command.args(words).env("GNUPGHOME", home.path()), b"")
    };
    let address = |name: &str| format!("{name}@example.org");
    // A signing key, whose subkey decrypts, of each kind that GnuPG makes; the last has a password.
    let kinds = [
        ("rsa", "rsa2048", "rsa3072", ""),
        ("curve", "ed25519", "cv25519", ""),
        ("nist", "nistp256", "nistp384", ""),
        ("locked", "rsa2048", "rsa2048", "a password"),
    ];
    let mut recipients = Vec::new();
    for (name, primary, subkey, password) in kinds {
        let password = ["--passphrase", password];
        let own = address(name);
        let key = ["--quick-generate-key", &own, primary, "sign", "never"];
        gpg(&[&password[..], &key].concat());
        let listed = gpg(&["--with-colons", "--list-keys", &own]);
        let listed = String::from_utf8(listed).unwrap();
        let line = listed.lines().find(|it| it.starts_with("fpr:")).unwrap();
        let fingerprint = line.split(':').nth(9).unwrap();
        let added = ["--quick-add-key", fingerprint, subkey, "encr", "never"];
        gpg(&[&password[..], &added].concat());
        let mut export = vec!["--export-secret-keys", fingerprint];
        if name != "curve" {
            export.insert(0, "--armor");
        }
        let exported = gpg(&[&password[..], &export].concat());
        std::fs::write(home.path().join(name), exported).unwrap();
        recipients.push(format!("pgp:{own}"));
    }
    let encrypt = |recipients: &[String]| {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", home.path());
        encrypt_by(command, recipients)
    };
    let all = encrypt(&recipients);
    assert_eq!(packets(&all.layer)[0].recipients, Some(4));
    let config = |key: &str| {
        let mut config = KeyConfig::default();
        let key = format!("{}/{key}", home.path().display());
        config.add_decryption_key(&key).unwrap();
        config
    };
    for (name, ..) in kinds {
        let key = match name {
            "locked" => "locked:pass=a password".to_owned(),
            _ => name.to_owned(),
        };
        check(&all, &config(&key), "pgp").await;
    }
    let other = encrypt(&recipients[..1]);
    check(&other, &config("rsa"), "pgp").await;
    let refused = Keyring::new(&config("curve")).unwrap();
    let refused = refused.unwrap(&other.layer).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    assert!(
        refused.to_string().contains("none of the recipients'"),
        "{refused}"
    );
    let no_password = Keyring::new(&config("locked")).unwrap_err();
    assert_eq!(no_password.kind(), Kind::Denied);
    // Its agent would wait for a while.
    let mut end = Command::new("gpgconf");
    run(
        end.args(["--kill", "all"]).env("GNUPGHOME", home.path()),
        b"",
    );
}

/// A token of SoftHSM in a directory of its own, with the private key `rsa-pkcs8.pem`.
#[cfg(feature = "pkcs11")]
struct SoftToken(TempDir);

#[cfg(feature = "pkcs11")]
impl SoftToken {
    /// `None`, after saying so, if SoftHSM is not installed.
    fn new() -> Option<Self> {
        if Command::new("softhsm2-util")
            .arg("--version")
            .output()
            .is_err()
        {
            println!("skipped: softhsm2-util is not installed (scripts/install-peers)");
            return None;
        }
        let token = Self(tempfile::tempdir().unwrap());
        let home = token.0.path();
        std::fs::create_dir(home.join("tokens")).unwrap();
        let configuration = format!("directories.tokendir = {}/tokens\n", home.display());
        std::fs::write(home.join("softhsm2.conf"), configuration).unwrap();
        let util = |words: &[&str]| {
            let mut command = Command::new("softhsm2-util");
            command.env("SOFTHSM2_CONF", home.join("softhsm2.conf"));
            run(command.args(words), b"");
        };
        let pins = ["--pin", "1234", "--so-pin", "12345678"];
        util(
            &[
                &["--init-token", "--free", "--label", "our token"][..],
                &pins,
            ]
            .concat(),
        );
        let key = format!("{KEYS}/rsa-pkcs8.pem");
        let into = ["--token", "our token", "--pin", "1234"];
        let names = ["--label", "layers", "--id", "0a"];
        util(&[&["--import", &key][..], &into, &names].concat());
        Some(token)
    }

    /// A key file as ocicrypt has it.
    fn key(&self, uri: &str) -> KeyConfig {
        let home = self.0.path().display();
        let text = format!(
            "pkcs11:\n  uri: {uri}\nmodule:\n  env:\n    SOFTHSM2_CONF: {home}/softhsm2.conf\n"
        );
        let path = self.0.path().join("key.yaml");
        std::fs::write(&path, text).unwrap();
        let mut config = KeyConfig {
            token_program: Some(env!("CARGO_BIN_EXE_nacre").into()),
            ..KeyConfig::default()
        };
        config
            .add_decryption_key(&path.display().to_string())
            .unwrap();
        config
    }
}

#[cfg(feature = "pkcs11")]
#[tokio::test]
async fn keys_on_tokens() {
    let (Some(program), Some(token)) = (go_program(), SoftToken::new()) else {
        return;
    };
    let encrypt = |hash: &str, key: &str| {
        let mut command = Command::new(program);
        // No configuration of ocicrypt's is needed, but it wants to be told.
        command.env("OCICRYPT_CONFIG", "internal");
        command.env("OCICRYPT_OAEP_HASHALG", hash);
        encrypt_by(command, &[format!("pkcs11:{key}")])
    };
    // SoftHSM's OAEP is with SHA-1.
    let image = encrypt("sha1", &format!("{KEYS}/rsa-pub.pem"));
    assert_eq!(packets(&image.layer)[0].recipients, Some(1));
    let good = "pkcs11:token=our%20token;object=layers?module-name=softhsm2&pin-value=1234";
    check(&image, &token.key(good), "pkcs11").await;
    let by_id = good.replace("object=layers", "id=%0a;type=private");
    check(&image, &token.key(&by_id), "pkcs11").await;

    for (uri, kind, said) in [
        (
            good.replace("our", "no"),
            Kind::Unavailable,
            "no token \"no token\"",
        ),
        (
            good.replace("layers", "none"),
            Kind::Denied,
            "no private key \"none\"",
        ),
        (good.replace("1234", "4321"), Kind::Denied, "PIN"),
        (
            good.replace("softhsm2", "nobodys"),
            Kind::NotFound,
            "module \"nobodys\"",
        ),
        (
            good.replace("module-name=softhsm2", "module-path=/dev/null"),
            Kind::Unavailable,
            "cannot be loaded",
        ),
    ] {
        let keyring = Keyring::new(&token.key(&uri)).unwrap();
        let error = keyring.unwrap(&image.layer).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{uri}: {error}");
        assert!(error.to_string().contains(said), "{uri}: {error}");
        assert!(error.to_string().contains("key.yaml"), "{error}");
        assert!(!error.to_string().contains("4321"), "{error}");
    }
    // Another's, by the other hash.
    let [private, public] = ["other.pem", "other.pub"].map(|it| token.0.path().join(it));
    let bits = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"];
    let mut openssl = Command::new("openssl");
    let made = openssl.arg("genpkey").args(bits).arg("-out").arg(&private);
    run(made, b"");
    let mut openssl = Command::new("openssl");
    let made = openssl.args(["pkey", "-pubout", "-in"]).arg(&private);
    run(made.arg("-out").arg(&public), b"");
    let other = encrypt("sha256", &public.display().to_string());
    let keyring = Keyring::new(&token.key(good)).unwrap();
    let error = keyring.unwrap(&other.layer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().contains("opens none of the packet"),
        "{error}"
    );

    // A token that does not answer is given up, and its process ended.
    let [text, script, marker] = ["hung.sh", "hung", "process"].map(|it| token.0.path().join(it));
    let body = format!(
        "#!/bin/sh\necho $$ > {}\nexec sleep 3600\n",
        marker.display()
    );
    std::fs::write(&text, body).unwrap();
    // Another process writes it: executing what this one wrote can fail with ETXTBSY while another
    // test forks.
    run(
        Command::new("install")
            .args(["-m", "755"])
            .arg(&text)
            .arg(&script),
        b"",
    );
    let hung = KeyConfig {
        token_program: Some(script),
        deadline: std::time::Duration::from_secs(2),
        ..token.key(good)
    };
    let error = Keyring::new(&hung)
        .unwrap()
        .unwrap(&image.layer)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.to_string().contains("token: no answer within 2 s"),
        "{error}"
    );
    let process = std::fs::read_to_string(marker).unwrap();
    let stat = format!("/proc/{}/stat", process.trim());
    // Its reaper may take a moment; a zombie is dead too.
    while let Ok(state) = std::fs::read_to_string(&stat) {
        if state.contains(") Z") {
            break;
        }
        tokio::task::yield_now().await;
    }
}
