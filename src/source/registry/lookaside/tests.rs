//! Which lookaside is whose, and what is read from one.

use std::path::Path;

use super::*;
use crate::{error::Kind, resource::Resources, source::registry::Credentials};

fn files() -> Resources {
    Resources::default()
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

fn places(directory: &Path) -> LookasidePlaces {
    LookasidePlaces {
        directory: directory.to_owned(),
        fallback: Some("/fallback".into()),
    }
}

#[test]
fn the_most_specific_scope_that_names_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        "a.yaml",
        "default-docker:\n  lookaside: https://default.example/sigs\n",
    );
    write(
        directory.path(),
        "b.yaml",
        "docker:\n  r.example:\n    sigstore: file:///old\n  r.example/team:\n    lookaside: \
         http://new.example\n    sigstore: file:///older\n    lookaside-staging: file:///w\n  \
         r.example/team/app:\n    use-sigstore-attachments: true\n  \
         r.example/team/app:v2:\n    lookaside: file:///v2\n  '*.wild.example':\n    \
         lookaside: file:///wild\n  nothing.example:\n",
    );
    write(directory.path(), "c.yaml", "# nothing\n\n");
    write(directory.path(), "d.yml", "is: not read");
    let places = places(directory.path());
    for (reference, want) in [
        ("r.example/team/app:v1", "http://new.example/"),
        ("r.example/team/app:v2", "file:///v2"),
        ("r.example/teams/app", "file:///old"),
        ("r.example:5000/team/app", "https://default.example/sigs"),
        ("x.wild.example:5000/a", "file:///wild"),
        ("nothing.example/a", "https://default.example/sigs"),
        ("busybox", "https://default.example/sigs"),
    ] {
        let url = places
            .of(&reference.parse().unwrap(), &files())
            .unwrap()
            .unwrap();
        assert_eq!(url.as_str(), want, "{reference}");
    }
    std::fs::remove_file(directory.path().join("a.yaml")).unwrap();
    let url = places
        .of(&"busybox".parse().unwrap(), &files())
        .unwrap()
        .unwrap();
    assert_eq!(url.as_str(), "file:///fallback/");
}

#[test]
fn one_file_by_its_uri() {
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        "a.yaml",
        "default-docker: {lookaside: file:///a}\n",
    );
    write(
        directory.path(),
        "b.yaml",
        "default-docker: {lookaside: file:///b}\n",
    );
    let of = |uri: String| {
        let places = places(Path::new(&uri));
        places.of(&"busybox".parse().unwrap(), &files())
    };
    let uri = |name: &str| format!("file://{}/{name}", directory.path().display());
    assert_eq!(of(uri("b.yaml")).unwrap().unwrap().as_str(), "file:///b");
    let twice = of(uri("")).unwrap_err().to_string();
    assert!(twice.contains("default-docker is in"), "{twice}");
    let resource = of("kbs:///default/sigstore-config/test".into()).unwrap_err();
    assert_eq!(resource.kind(), Kind::Unsupported, "{resource}");
}

#[test]
fn malformed_files_are_named() {
    for (text, want) in [
        ("docker:\n  r.example:\n    lookasid: x\n", "lookasid"),
        ("dockers: {}\n", "dockers"),
        ("docker: [", "b.yaml"),
        (
            "default-docker:\n  lookaside: file:///x\n",
            "default-docker is in",
        ),
        (
            "docker:\n  a.example:\n    lookaside: file:///x\n",
            "\"a.example\" is in",
        ),
        (
            "docker:\n  r.example:\n    lookaside: ftp://x/\n",
            "\"ftp://x/\": not a URL",
        ),
        (
            "docker:\n  r.example:\n    lookaside: /x\n",
            "\"/x\": not a URL",
        ),
        (
            "docker:\n  r.example:\n    lookaside: file://host/x\n",
            "not a URL",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        write(
            directory.path(),
            "a.yaml",
            "default-docker: {lookaside: file:///d}\ndocker: {a.example: {lookaside: file:///a}}\n",
        );
        write(directory.path(), "b.yaml", text);
        let error = places(directory.path())
            .of(&"r.example/a".parse().unwrap(), &files())
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        let said = error.to_string();
        assert!(
            said.contains(want) && said.contains("b.yaml"),
            "{text}: {said}"
        );
    }
}

#[test]
fn usual_places_are_those_of_podman() {
    let home = tempfile::tempdir().unwrap();
    let of = |root| LookasidePlaces::usual(Some(home.path()), root);
    assert_eq!(
        of(true).directory,
        Path::new("/etc/containers/registries.d")
    );
    assert_eq!(
        of(true).fallback.unwrap(),
        Path::new("/var/lib/containers/sigstore")
    );
    let own = home.path().join(".config/containers/registries.d");
    std::fs::create_dir_all(&own).unwrap();
    assert_eq!(of(false).directory, own);
    let fallback = home.path().join(".local/share/containers/sigstore");
    assert_eq!(of(false).fallback, Some(fallback));
    assert_eq!(LookasidePlaces::usual(None, false).fallback, None);
}

#[tokio::test]
async fn signatures_are_read_until_one_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let digest = Digest::sha256(b"x");
    let signatures = directory
        .path()
        .join(format!("team/app@sha256={}", digest.hex()));
    std::fs::create_dir_all(&signatures).unwrap();
    for (n, text) in [(1, "one"), (2, "two"), (4, "four")] {
        write(&signatures, &format!("signature-{n}"), text);
    }
    let options = Options {
        credentials: Credentials::anonymous(),
        ..Options::default()
    };
    let places = LookasidePlaces {
        directory: directory.path().join("registries.d"),
        fallback: Some(directory.path().to_owned()),
    };
    let lookaside = Lookaside::new(places, options, Vec::new());
    let reference = "r.example/team/app:v1".parse().unwrap();
    let traffic = Traffic::default();
    let found = lookaside
        .signatures(&reference, &digest, &traffic)
        .await
        .unwrap()
        .unwrap();
    let texts: Vec<&[u8]> = found.iter().map(|it| &it.bytes[..]).collect();
    assert_eq!(texts, [&b"one"[..], b"two"]);
    assert!(found[1].place.ends_with("/signature-2"));

    let large = vec![0; (256 << 10) + 1];
    std::fs::write(signatures.join("signature-3"), large).unwrap();
    let error = lookaside
        .signatures(&reference, &digest, &traffic)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("signature-3: larger than"),
        "{error}"
    );
}
