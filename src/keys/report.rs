//! Which keys are configured, for people who ask what this node can open; nothing of the keys.

use std::path::PathBuf;

use super::{KeyConfig, Keyring, provider::Providers};

/// What is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysReport {
    /// Files of private keys.
    pub private_keys: Vec<PathBuf>,
    /// Files of CoCo keys, offline files among them.
    pub coco_keys: Vec<CocoKeyReport>,
    /// The key providers' configuration.
    pub keyprovider_config: Option<PathBuf>,
    /// The key providers that it names.
    pub providers: Vec<ProviderReport>,
    /// Why they cannot be read as they are now.
    pub error: Option<String>,
}

/// A file of a CoCo key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CocoKeyReport {
    /// The packets it is for; if absent, all, or those that it names.
    pub kid: Option<String>,
    /// The file.
    pub file: PathBuf,
}

/// A key provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderReport {
    /// Its name, as packets say it.
    pub name: String,
    /// How it is reached.
    pub way: String,
}

// === impl KeysReport ===

impl KeysReport {
    /// Reads the files; they are read anew for every image, so what is wrong with them now counts.
    #[must_use]
    pub fn of(config: &KeyConfig) -> Self {
        let providers = Providers::read(config.keyprovider_config.as_deref());
        let coco = config.coco_keys.iter();
        let offline = config.offline_keys.iter().map(|file| CocoKeyReport {
            kid: None,
            file: file.clone(),
        });
        Self {
            private_keys: config
                .private_keys
                .iter()
                .map(|it| it.path.clone())
                .collect(),
            coco_keys: coco
                .map(|key| CocoKeyReport {
                    kid: key.kid.clone(),
                    file: key.path.clone(),
                })
                .chain(offline)
                .collect(),
            keyprovider_config: config.keyprovider_config.clone(),
            providers: providers.map_or_else(|_| Vec::new(), |it| it.describe()),
            error: Keyring::new(config).err().map(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_and_providers_and_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let providers = r#"{"key-providers": {
            "kms": {"grpc": "127.0.0.1:5000"}, "old": {"native": "x"}, "hub": {"ttrpc": "unix:///x"},
            "tool": {"cmd": {"path": "/bin/tool", "args": ["--token", "word"]}}
        }}"#;
        std::fs::write(path("providers.json"), providers).unwrap();
        std::fs::write(path("coco"), [7; 32]).unwrap();
        let mut config = KeyConfig {
            keyprovider_config: Some(path("providers.json")),
            ..KeyConfig::default()
        };
        let coco = format!("kbs:///a/b/c={}", path("coco").display());
        config.coco_keys.push(coco.parse().unwrap());
        let report = KeysReport::of(&config);
        assert_eq!(report.error, None);
        let ways = { report.providers.iter() }.map(|it| format!("{} {}", it.name, it.way));
        let ways: Vec<_> = ways.collect();
        assert_eq!(
            ways,
            [
                "hub ttrpc /x",
                "kms grpc 127.0.0.1:5000",
                "old native (not spoken)",
                "tool cmd /bin/tool"
            ]
        );
        let private = format!("{}:pass=secret", path("gone.pem").display());
        config.add_decryption_key(&private).unwrap();
        let report = KeysReport::of(&config);
        let said = report.error.clone().unwrap();
        assert!(said.contains("gone.pem: no such file"), "{said}");
        let text = format!("{report:?}");
        assert!(!text.contains("secret") && !text.contains("word"), "{text}");
    }
}
