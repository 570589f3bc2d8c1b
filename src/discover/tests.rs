//! Names and their paths; how one image of a table is picked.

use super::*;
use crate::error::Kind;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn names_have_paths() {
    for (text, short, path) in [
        (
            "v2.3.0",
            "v2.3.0",
            "constellation/v2/ref/-/stream/stable/v2.3.0/image/info.json",
        ),
        (
            "ref/-/stream/stable/v2.3.0",
            "v2.3.0",
            "constellation/v2/ref/-/stream/stable/v2.3.0/image/info.json",
        ),
        (
            "stream/debug/v0.0.1-rc.1",
            "stream/debug/v0.0.1-rc.1",
            "constellation/v2/ref/-/stream/debug/v0.0.1-rc.1/image/info.json",
        ),
        (
            "ref/feat-xyz/stream/nightly/v2.4.0-pre.0.20230922011244-0744d001aa84",
            "ref/feat-xyz/stream/nightly/v2.4.0-pre.0.20230922011244-0744d001aa84",
            "constellation/v2/ref/feat-xyz/stream/nightly/\
             v2.4.0-pre.0.20230922011244-0744d001aa84/image/info.json",
        ),
    ] {
        let name = name(text);
        assert_eq!(name.to_string(), short);
        assert_eq!(name.info_path(Form::V2), path);
    }
    let name = name("v1.0.0");
    let base = "ref/-/stream/stable/v1.0.0/image";
    for (form, path) in [
        (
            Form::V2,
            format!("constellation/v2/{base}/measurements.json"),
        ),
        (
            Form::V1,
            format!("constellation/v1/{base}/csp/aws/measurements.json"),
        ),
    ] {
        assert_eq!(name.measurements_path(form, "aws"), path);
    }
}

#[test]
fn what_is_not_named_must_be_alone() {
    let table = serde_json::json!({
        "version": "v1.0.0", "ref": "-", "stream": "stable", "later": { "x": 1 },
        "list": [
            { "csp": "AWS", "attestationVariant": "a", "region": "eu", "reference": "1" },
            { "csp": "AWS", "attestationVariant": "a", "region": "us", "reference": "2" },
            { "csp": "AWS", "attestationVariant": "b", "region": "", "reference": "3" },
            { "csp": "AWS", "attestationVariant": "c", "reference": "4" },
            { "csp": "AWS", "attestationVariant": "c", "region": "us", "reference": "5" },
        ],
    });
    let info = Info::parse(table.to_string().as_bytes(), Form::V2, &name("v1.0.0")).unwrap();
    let pick = |variant: Option<&str>, region: Option<&str>| {
        info.pick(&Wanted {
            provider: "aws".into(),
            variant: variant.map(Into::into),
            region: region.map(Into::into),
        })
        .map(|entry| entry.reference.clone())
        .map_err(|e| e.kind())
    };
    assert_eq!(pick(Some("a"), Some("us")), Ok("2".into()));
    assert_eq!(pick(Some("a"), Some("mars")), Err(Kind::NotFound));
    assert_eq!(pick(Some("a"), None), Err(Kind::Invalid));
    // One that is the same everywhere, unless there is one of the place.
    assert_eq!(pick(Some("b"), Some("us")), Ok("3".into()));
    assert_eq!(pick(Some("c"), Some("us")), Ok("5".into()));
    assert_eq!(pick(Some("c"), Some("eu")), Ok("4".into()));
    assert_eq!(pick(None, None), Err(Kind::Invalid));
    assert_eq!(pick(Some("d"), None), Err(Kind::NotFound));
}

proptest::proptest! {
    #[test]
    fn no_document_makes_it_panic(bytes: Vec<u8>) {
        let name = name("v1.0.0");
        for form in [Form::V1, Form::V2] {
            proptest::prop_assert!(Info::parse(&bytes, form, &name).is_err());
        }
        proptest::prop_assert!(parse_actual(&bytes).is_err());
    }
}
