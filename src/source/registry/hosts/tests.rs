use std::path::Path;

use super::*;
use crate::Kind;

fn parsed(text: &str) -> Result<Vec<Host>> {
    parse::parse(text, Path::new("/certs.d/r.example"))
}

/// Scheme, authority and path.
fn url(host: &Host) -> String {
    let server = host.server.as_ref().unwrap();
    let scheme = match server.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    format!("{scheme}://{}{}", server.authority, server.path)
}

/// Every key that containerd documents, in one file.
const EVERYTHING: &str = r#"
server = "https://r.example"

[host."https://z.example:5000"]
  capabilities = ["pull"]
  ca = "ca.pem"
  client = [["client.cert", "/keys/client.key"]]
  dial_timeout = "1m30s"
  [host."https://z.example:5000".header]
    x-one = "1"
    x-two = ["a", "b"]

[host."http://a.example/proxy"]
  capabilities = ["pull", "resolve"]
  ca = ["one.pem", "/two.pem"]
  client = "both.pem"
  skip_verify = true

[host."b.example/v2/hub"]
  override_path = true
"#;

#[test]
fn hosts_are_in_the_order_of_the_file_and_the_server_is_last() {
    let hosts = parsed(EVERYTHING).unwrap();
    let urls: Vec<String> = hosts.iter().map(url).collect();
    assert_eq!(
        urls,
        [
            "https://z.example:5000/v2",
            "http://a.example/proxy/v2",
            "https://b.example/v2/hub",
            "https://r.example/v2",
        ]
    );
    let [z, a, b, server] = &hosts[..] else {
        panic!("four hosts");
    };
    let pull_only = Capabilities {
        pull: true,
        ..Capabilities::NONE
    };
    assert_eq!(z.capabilities, pull_only);
    assert_eq!(z.ca, [Path::new("/certs.d/r.example/ca.pem")]);
    assert_eq!(
        z.client,
        Some(ClientCertificate {
            certificate: "/certs.d/r.example/client.cert".into(),
            key: Some("/keys/client.key".into()),
        })
    );
    assert_eq!(z.dial_timeout, Some(Duration::from_secs(90)));
    assert_eq!(z.headers["x-one"], "1");
    assert!(z.headers["x-one"].is_sensitive());
    let two: Vec<_> = z.headers.get_all("x-two").iter().collect();
    assert_eq!(two, ["a", "b"]);
    assert!(a.capabilities.resolve && !a.capabilities.push && a.skip_verify);
    assert_eq!(a.ca.len(), 2);
    assert_eq!(a.ca[1], Path::new("/two.pem"));
    assert!(a.client.as_ref().unwrap().key.is_none());
    assert_eq!(b.capabilities, Capabilities::ALL);
    assert_eq!(server.capabilities, Capabilities::ALL);
}

#[test]
fn without_a_server_the_registry_itself_is_last() {
    for text in ["", "server = \"\"\n"] {
        let hosts = parsed(text).unwrap();
        assert_eq!(hosts.len(), 1, "{text:?}");
        assert!(hosts[0].server.is_none());
    }
    let hosts = parsed("ca = \"ca.pem\"\nskip_verify = true\n[host.\"m.example\"]\n").unwrap();
    assert_eq!(url(&hosts[0]), "https://m.example/v2");
    assert!(hosts[0].ca.is_empty(), "what stands above is the server's");
    assert!(hosts[1].server.is_none() && hosts[1].skip_verify);
    assert_eq!(hosts[1].ca.len(), 1);
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    for (text, line, said) in [
        ("server = 5\n", 1, "want a string"),
        ("\nservers = \"x\"\n", 2, "unknown key \"servers\""),
        (
            "[host.\"a.example\"]\ncapabilites = [\"pull\"]\n",
            2,
            "unknown key",
        ),
        (
            "[host.\"a.example\"]\ncapabilities = \"pull\"\n",
            2,
            "want a list",
        ),
        (
            "[host.\"a.example\"]\ncapabilities = [\"pull\",\n\"delete\"]\n",
            3,
            "\"delete\"",
        ),
        (
            "\n[host.\"ftp://a.example\"]\n",
            2,
            "neither https nor http",
        ),
        ("[host.\"https://u:s3cret-not@a.example\"]\n", 1, "logins"),
        ("[host.\"https://a.example/?x=1\"]\n", 1, "more than a path"),
        ("[host.\"https://\"]\n", 1, "host"),
        ("host = \"a.example\"\n", 1, "want a table"),
        (
            "[host.\"a.example\"]\nskip_verify = \"yes\"\n",
            2,
            "want true or false",
        ),
        (
            "[host.\"a.example\"]\nca = [\"a\", 5]\n",
            2,
            "want a string",
        ),
        ("[host.\"a.example\"]\nca = \"\"\n", 2, "empty path"),
        (
            "[host.\"a.example\"]\nclient = [[\"a\", \"b\", \"c\"]]\n",
            2,
            "[certificate, key]",
        ),
        (
            "[host.\"a.example\"]\nclient = [\"a\", \"b\"]\n",
            2,
            "at most one",
        ),
        (
            "[host.\"a.example\"]\ndial_timeout = \"soon\"\n",
            2,
            "dial_timeout",
        ),
        (
            "[host.\"a.example\"]\ndial_timeout = \"0\"\n",
            2,
            "dial_timeout",
        ),
        ("[host.\"a.example\".header]\n\"x y\" = \"1\"\n", 2, "name"),
        (
            "[host.\"a.example\".header]\nx = \"s3cret\\n\"\n",
            2,
            "value",
        ),
        ("server = \n", 1, ""),
        ("server = \"a\"\nserver = \"b\"\n", 2, "duplicate"),
    ] {
        let Err(error) = parsed(text) else {
            panic!("{text:?} was taken");
        };
        let message = error.to_string();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            message.starts_with(&format!("line {line}: ")),
            "{text:?}: {message}"
        );
        assert!(message.contains(said), "{text:?}: {message}");
        assert!(!message.contains("s3cret\n"), "{message}");
    }
    let many: String = (0..=32)
        .map(|n| format!("[host.\"m{n}.example\"]\n"))
        .collect();
    let error = parsed(&many).err().unwrap();
    assert!(
        error.to_string().contains("line 33: more than 32"),
        "{error}"
    );
}

#[test]
fn directories_as_containerd_names_them() {
    let names = |registry: &str| -> Vec<String> {
        directories(Path::new("/c"), registry)
            .iter()
            .map(|directory| directory.display().to_string())
            .collect()
    };
    assert_eq!(
        names("r.example:5000"),
        ["/c/r.example_5000_", "/c/r.example:5000", "/c/_default"]
    );
    assert_eq!(names("docker.io"), ["/c/docker.io", "/c/_default"]);
    assert_eq!(names("[::1]"), ["/c/[::1]", "/c/_default"]);
    assert_eq!(
        names("[::1]:5000"),
        ["/c/[::1]_5000_", "/c/[::1]:5000", "/c/_default"]
    );
}

#[test]
fn files_are_found_and_read_with_what_they_name() {
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path();
    let write = |name: &str, text: &str| {
        let path = certs.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    assert!(load(certs, "r.example:5000").unwrap().is_none());
    write(
        "_default/hosts.toml",
        "server = \"https://default.example\"\n",
    );
    let of = |registry: &str| url(&load(certs, registry).unwrap().unwrap().hosts[0]);
    assert_eq!(of("r.example:5000"), "https://default.example/v2");
    write(
        "r.example:5000/hosts.toml",
        "server = \"https://colon.example\"\n",
    );
    assert_eq!(of("r.example:5000"), "https://colon.example/v2");
    write(
        "r.example_5000_/hosts.toml",
        "server = \"https://u.example\"\nca = \"ca.crt\"\nclient = [[\"c\", \"k\"]]\n",
    );
    let error = load(certs, "r.example:5000").err().unwrap();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("ca.crt"), "{error}");
    assert!(
        error.to_string().contains("r.example_5000_/hosts.toml"),
        "{error}"
    );
    for (file, text) in [("ca.crt", "A"), ("c", "C"), ("k", "K")] {
        write(&format!("r.example_5000_/{file}"), text);
    }
    let hosts = load(certs, "r.example:5000").unwrap().unwrap();
    assert_eq!(hosts.hosts[0].ca_pem, [b"A"]);
    assert_eq!(
        hosts.hosts[0].client_pem.as_ref().unwrap().as_slice(),
        b"C\nK"
    );
    let again = load(certs, "r.example:5000").unwrap().unwrap();
    assert!(hosts == again, "nothing has changed");
    write("r.example_5000_/ca.crt", "B");
    let renewed = load(certs, "r.example:5000").unwrap().unwrap();
    assert!(hosts != renewed, "an authority was renewed");
}

#[test]
fn bare_certificates_as_docker_keeps_them() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("r.example");
    std::fs::create_dir(&own).unwrap();
    assert!(load(directory.path(), "r.example").unwrap().is_none());
    std::fs::write(own.join("ca.crt"), "A").unwrap();
    std::fs::write(own.join("client.cert"), "C").unwrap();
    let error = load(directory.path(), "r.example").err().unwrap();
    assert!(error.to_string().contains("client.key"), "{error}");
    std::fs::write(own.join("client.key"), "K").unwrap();
    let hosts = load(directory.path(), "r.example").unwrap().unwrap();
    let [host] = &hosts.hosts[..] else {
        panic!("one host");
    };
    assert!(host.server.is_none());
    assert_eq!(host.ca_pem, [b"A"]);
    assert_eq!(host.client_pem.as_ref().unwrap().as_slice(), b"C\nK");
}
