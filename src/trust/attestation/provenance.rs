//! SLSA provenance of version 0.2 and 1: who built an image, from what, and whether that is what a
//! policy asks for.
//!
//! The rules are those of slsa-verifier for container builds, without its list of builders, which
//! a policy names: the builder is the one that the signer's certificate names, where one signed;
//! the two places of version 0.2 that name the source agree; a builder that the policy names
//! without a version must have been run from a version's tag.

use serde::Serialize;

use super::statement::Statement;
use crate::trust::{json::Node, sigstore::Claims};

/// What provenance says about a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// URI of what built.
    pub builder: Option<String>,
    /// URI of the kind of build.
    pub build_type: Option<String>,
    /// The repository that was built, without `git+` and `.git`.
    pub source: Option<String>,
    /// Branch or tag, as `refs/...`, or what the provenance names instead.
    pub reference: Option<String>,
    /// The commit.
    pub revision: Option<String>,
}

/// What a policy asks of provenance; what is `None` is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// URI of the builder; without `@VERSION`, any version's tag of it will do.
    pub builder: Option<String>,
    /// The repository.
    pub source: Option<String>,
    /// `refs/heads/...` or `refs/tags/...`; a `*` at the end stands for anything.
    pub reference: Option<String>,
}

/// Predicate types of provenance.
pub(crate) const V0_2: &str = "https://slsa.dev/provenance/v0.2";
pub(crate) const V1: &str = "https://slsa.dev/provenance/v1";

// === impl Provenance ===

impl Provenance {
    /// Reads a statement's predicate; `None` if it is no provenance.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub(crate) fn of(statement: &Statement) -> Result<Option<Self>, String> {
        let Some(predicate) = statement.predicate() else {
            return Ok(None);
        };
        match statement.predicate_type.as_str() {
            V0_2 => Self::v0_2(predicate).map(Some),
            V1 => Ok(Some(Self::v1(predicate))),
            _ => Ok(None),
        }
    }

    fn v0_2(predicate: &Node) -> Result<Self, String> {
        let trigger = at(predicate, &["invocation", "configSource"]);
        let material = predicate
            .get("materials")
            .and_then(|all| all.array().ok()?.first());
        let uri = |node: Option<&Node>| node.and_then(|it| text(it, &["uri"]));
        let (trigger_uri, material_uri) = (uri(trigger), uri(material));
        if let (Some(trigger), Some(material)) = (&trigger_uri, &material_uri)
            && trigger != material
        {
            return Err(format!(
                "provenance names two sources, {trigger} and {material}"
            ));
        }
        let source = trigger_uri.or(material_uri);
        let (source, reference) = source.map_or((None, None), |uri| split(&uri));
        let revision = trigger
            .and_then(|it| text(it, &["digest", "sha1"]))
            .or_else(|| material.and_then(|it| text(it, &["digest", "sha1"])));
        Ok(Self {
            builder: text(predicate, &["builder", "id"]),
            build_type: text(predicate, &["buildType"]),
            source,
            reference,
            revision,
        })
    }

    fn v1(predicate: &Node) -> Self {
        let parameters = ["buildDefinition", "externalParameters"];
        let workflow = at(predicate, &[parameters[0], parameters[1], "workflow"]);
        let dependencies = at(predicate, &["buildDefinition", "resolvedDependencies"])
            .and_then(|all| all.array().ok())
            .unwrap_or_default();
        // kpack names its source among others; everybody else puts it first.
        let dependency = dependencies
            .iter()
            .find(|it| text(it, &["name"]).as_deref() == Some("source"))
            .or(dependencies.first());
        let (mut source, mut reference) = dependency
            .and_then(|it| text(it, &["uri"]))
            .map_or((None, None), |uri| split(&uri));
        // What was asked to be built wins over what was fetched for it.
        if let Some(repository) = workflow.and_then(|it| text(it, &["repository"])) {
            source = split(&repository).0;
            reference = workflow.and_then(|it| text(it, &["ref"])).or(reference);
        }
        let revision = dependency.and_then(|it| {
            ["gitCommit", "sha1"]
                .iter()
                .find_map(|name| text(it, &["digest", name]))
        });
        Self {
            builder: text(predicate, &["runDetails", "builder", "id"]),
            build_type: text(predicate, &["buildDefinition", "buildType"]),
            source,
            reference,
            revision,
        }
    }

    /// Holds it against a policy, and against the certificate of whom signed it.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn meets(
        &self,
        wanted: &Origins,
        certificate: Option<&Claims>,
    ) -> Result<(), String> {
        let certified = certificate.and_then(|it| {
            it.builder.clone().or_else(|| {
                // Older certificates of workflows name the builder as their subject only.
                let is_workflow = it.subject.contains("/.github/workflows/");
                is_workflow.then(|| it.subject.clone())
            })
        });
        if let (Some(certified), Some(builder)) = (&certified, &self.builder)
            && certified != builder
        {
            return Err(format!(
                "says that {builder} built, but {certified} signed it"
            ));
        }
        if let Some(want) = &wanted.builder {
            match &self.builder {
                Some(builder) if is_builder(builder, want) => {}
                other => return Err(unlike("built by", other.as_ref(), want)),
            }
        }
        if let Some(want) = &wanted.source {
            let want = split(want).0.unwrap_or_default();
            let certified = certificate.and_then(|it| it.source.as_deref());
            let certified = certified.map(|uri| split(uri).0.unwrap_or_default());
            for source in [self.source.clone(), certified.or(self.source.clone())] {
                if source.as_ref() != Some(&want) {
                    return Err(unlike("built from", source.as_ref(), &want));
                }
            }
        }
        if let Some(want) = &wanted.reference {
            let certified = certificate.and_then(|it| it.reference.clone());
            for reference in [self.reference.clone(), certified.or(self.reference.clone())] {
                let fits = reference.as_ref().is_some_and(|it| is_reference(it, want));
                if !fits {
                    return Err(unlike("built from reference", reference.as_ref(), want));
                }
            }
        }
        Ok(())
    }
}

fn unlike(what: &str, found: Option<&String>, want: &str) -> String {
    let found = found.map_or("nothing it names", String::as_str);
    format!("{what} {found}, want {want}")
}

/// Whether a builder is the wanted one: the same URI, or another way to write its version, or any
/// version's tag of it if the policy leaves the version open.
fn is_builder(found: &str, want: &str) -> bool {
    if found == want {
        return true;
    }
    let Some((name, reference)) = found.rsplit_once('@') else {
        return false;
    };
    let Some(tag) = reference.strip_prefix("refs/tags/") else {
        return false;
    };
    match want.rsplit_once('@') {
        Some((wanted, version)) => name == wanted && version == tag,
        None => name == want && is_version(tag),
    }
}

/// `v1.2.3`, whole: a builder's branch or a moving tag (`v1`) is not a version.
fn is_version(tag: &str) -> bool {
    let Some(version) = tag.strip_prefix('v') else {
        return false;
    };
    let core = version.split_once(['-', '+']).map_or(version, |it| it.0);
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn is_reference(found: &str, want: &str) -> bool {
    match want.strip_suffix('*') {
        Some(beginning) => found.starts_with(beginning),
        None => found == want,
    }
}

/// Repository and reference of `git+https://host/path.git@refs/...`.
fn split(uri: &str) -> (Option<String>, Option<String>) {
    let uri = uri.strip_prefix("git+").unwrap_or(uri);
    // An @ before the path belongs to a user's name.
    let path = uri.find("://").map_or(0, |at| at + 3);
    let slash = uri[path..].find('/').map_or(uri.len(), |at| path + at);
    let (repository, reference) = match uri[slash..].split_once('@') {
        Some((rest, reference)) => (&uri[..slash + rest.len()], Some(reference.to_owned())),
        None => (uri, None),
    };
    let repository = repository.trim_end_matches('/');
    let repository = repository.strip_suffix(".git").unwrap_or(repository);
    let repository = (!repository.is_empty()).then(|| repository.to_owned());
    (repository, reference.filter(|it| !it.is_empty()))
}

fn at<'n>(node: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter().try_fold(node, |node, key| node.get(key))
}

fn text(node: &Node, path: &[&str]) -> Option<String> {
    let text = at(node, path)?.string().ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BUILDER: &str = "https://github.com/o/g/.github/workflows/b.yml";

    fn of(kind: &str, predicate: serde_json::Value) -> Result<Option<Provenance>, String> {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind,
            "subject": [], "predicate": predicate,
        });
        Provenance::of(&Statement::parse(statement.to_string().as_bytes()).unwrap())
    }

    fn v0_2(trigger: &str, material: &str) -> Result<Option<Provenance>, String> {
        of(
            V0_2,
            json!({
                "builder": { "id": format!("{BUILDER}@refs/tags/v1.2.3") },
                "buildType": "t",
                "invocation": { "configSource": { "uri": trigger, "digest": { "sha1": "ab" } } },
                "materials": [{ "uri": material, "digest": { "sha1": "ab" } }],
            }),
        )
    }

    #[test]
    fn reads_both_versions() {
        let uri = "git+https://github.com/o/app@refs/tags/v9";
        let want = Provenance {
            builder: Some(format!("{BUILDER}@refs/tags/v1.2.3")),
            build_type: Some("t".into()),
            source: Some("https://github.com/o/app".into()),
            reference: Some("refs/tags/v9".into()),
            revision: Some("ab".into()),
        };
        assert_eq!(v0_2(uri, uri).unwrap().unwrap(), want);
        let error = v0_2(uri, "git+https://github.com/o/other@refs/tags/v9").unwrap_err();
        assert!(error.contains("two sources"), "{error}");
        // As GitHub's own attestations have it.
        let github = json!({
            "buildDefinition": {
                "buildType": "t",
                "externalParameters": { "workflow": {
                    "ref": "refs/tags/v9", "repository": "https://github.com/o/app",
                    "path": ".github/workflows/b.yml" } },
                "resolvedDependencies": [{
                    "uri": "git+https://github.com/o/app@refs/tags/v9",
                    "digest": { "gitCommit": "ab" } }],
            },
            "runDetails": { "builder": { "id": format!("{BUILDER}@refs/tags/v1.2.3") } },
        });
        assert_eq!(of(V1, github).unwrap().unwrap(), want);
        let kpack = json!({
            "buildDefinition": { "buildType": "https://kpack.io/build",
                "externalParameters": {},
                "resolvedDependencies": [
                    { "name": "builder", "uri": "r.example/builder" },
                    { "name": "source", "uri": "https://git.example/o/app.git",
                      "digest": { "sha1": "cd" } }] },
            "runDetails": { "builder": { "id": "https://kpack.io/slsa/signed-app-build" } },
        });
        let kpack = of(V1, kpack).unwrap().unwrap();
        assert_eq!(kpack.source.as_deref(), Some("https://git.example/o/app"));
        assert_eq!(kpack.revision.as_deref(), Some("cd"));
        assert_eq!(of("https://spdx.dev/Document", json!({})).unwrap(), None);
    }

    #[test]
    fn what_a_policy_asks() {
        let uri = "git+https://github.com/o/app@refs/tags/v9";
        let provenance = v0_2(uri, uri).unwrap().unwrap();
        let asks = |builder: &str, source: &str, reference: &str| Origins {
            builder: Some(builder.to_owned()).filter(|it| !it.is_empty()),
            source: Some(source.to_owned()).filter(|it| !it.is_empty()),
            reference: Some(reference.to_owned()).filter(|it| !it.is_empty()),
        };
        let full = format!("{BUILDER}@refs/tags/v1.2.3");
        let short = format!("{BUILDER}@v1.2.3");
        for wanted in [
            asks("", "", ""),
            asks(BUILDER, "https://github.com/o/app", "refs/tags/v9"),
            asks(&full, "git+https://github.com/o/app", "refs/tags/*"),
            asks(&short, "https://github.com/o/app.git", "*"),
        ] {
            provenance.meets(&wanted, None).unwrap();
        }
        let other = format!("{BUILDER}@v1.2.4");
        for (wanted, want) in [
            (asks(&other, "", ""), "built by"),
            (asks("https://github.com/o/g", "", ""), "built by"),
            (asks("", "https://github.com/o/ap", ""), "built from https"),
            (asks("", "", "refs/heads/main"), "built from reference"),
            (asks("", "", "refs/tags/v"), "built from reference"),
        ] {
            let error = provenance.meets(&wanted, None).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        let nothing = Provenance::default();
        for wanted in [
            asks(BUILDER, "", ""),
            asks("", "https://github.com/o/app", ""),
            asks("", "", "*"),
        ] {
            let error = nothing.meets(&wanted, None).unwrap_err();
            assert!(error.contains("nothing it names"), "{error}");
        }
    }

    #[test]
    fn the_certificate_has_to_agree() {
        let uri = "git+https://github.com/o/app@refs/tags/v9";
        let provenance = v0_2(uri, uri).unwrap().unwrap();
        let wanted = Origins {
            source: Some("https://github.com/o/app".into()),
            reference: Some("refs/tags/v9".into()),
            ..Origins::default()
        };
        let good = Claims {
            subject: format!("{BUILDER}@refs/tags/v1.2.3"),
            builder: Some(format!("{BUILDER}@refs/tags/v1.2.3")),
            source: Some("https://github.com/o/app".into()),
            reference: Some("refs/tags/v9".into()),
            ..Claims::default()
        };
        provenance.meets(&wanted, Some(&good)).unwrap();
        let change = |change: fn(&mut Claims)| {
            let mut claims = good.clone();
            change(&mut claims);
            provenance.meets(&wanted, Some(&claims)).unwrap_err()
        };
        let error = change(|it| it.builder = Some("https://evil.example".into()));
        assert!(error.contains("but https://evil.example signed it"));
        let error = change(|it| {
            it.builder = None;
            it.subject = "https://github.com/o/x/.github/workflows/b.yml@v1".into();
        });
        assert!(error.contains("signed it"), "{error}");
        let error = change(|it| it.source = Some("https://github.com/o/fork".into()));
        assert!(error.contains("o/fork, want"), "{error}");
        let error = change(|it| it.reference = Some("refs/heads/main".into()));
        assert!(error.contains("refs/heads/main, want"), "{error}");
    }

    #[test]
    fn versions_are_whole() {
        for (tag, want) in [
            ("v1.2.3", true),
            ("v1.2.3-rc.1", true),
            ("v1", false),
            ("v1.2", false),
            ("1.2.3", false),
            ("v1.2.x", false),
            ("v1..3", false),
        ] {
            assert_eq!(is_version(tag), want, "{tag}");
            assert_eq!(is_builder(&format!("b@refs/tags/{tag}"), "b"), want);
        }
        assert!(!is_builder("b@refs/heads/main", "b"));
        assert!(!is_builder("b", "b@v1.2.3"));
        assert!(is_builder("b@refs/heads/main", "b@refs/heads/main"));
    }
}
