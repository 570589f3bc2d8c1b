//! From a layout to an encrypted, signed image in a real registry, by the tools that users have, and
//! the `nacre` program under test.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{
    docker_registry::DockerRegistry,
    program::{self, Ran},
};

/// A working directory with keys, a policy, a registry, and the programs that fill it.
pub(crate) struct Pipeline {
    pub(crate) registry: DockerRegistry,
    pub(crate) directory: tempfile::TempDir,
}

/// One of the two formats that `nacre image convert` writes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    Estargz,
    ZstdChunked,
}

// === impl Format ===

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Estargz => "estargz",
            Format::ZstdChunked => "zstd-chunked",
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Everything that is needed, or `None` after saying what is missing.
    pub(crate) fn start() -> Option<Self> {
        Self::on(DockerRegistry::start)
    }

    /// The same with this registry.
    pub(crate) fn on(registry: impl FnOnce() -> Option<DockerRegistry>) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounting and comparing owners needs root");
            return None;
        }
        if !Path::new("/dev/fuse").exists() {
            println!("skipped: no /dev/fuse");
            return None;
        }
        for program in ["skopeo", "umoci", "openssl"] {
            if Command::new(program).arg("--version").output().is_err() {
                println!("skipped: {program} is not installed (scripts/install-peers)");
                return None;
            }
        }
        let pipeline = Self {
            registry: registry()?,
            directory: tempfile::tempdir().unwrap(),
        };
        pipeline.make_keys();
        Some(pipeline)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `HOST/NAME`.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    fn make_keys(&self) {
        for name in ["layer", "other-layer"] {
            let (private, public) = (
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.pub")),
            );
            tool(
                "openssl",
                [
                    OsStr::new("genrsa"),
                    "-out".as_ref(),
                    private.as_ref(),
                    "2048".as_ref(),
                ],
            );
            tool(
                "openssl",
                [
                    OsStr::new("rsa"),
                    "-in".as_ref(),
                    private.as_ref(),
                    "-pubout".as_ref(),
                    "-out".as_ref(),
                    public.as_ref(),
                ],
            );
        }
        for name in ["signer", "other-signer"] {
            self.nacre(["image", "keygen", self.path(name).to_str().unwrap()])
                .ok();
        }
        self.write_policy("policy.json", "signer");
    }

    /// A policy that wants images of this registry signed by `key`.
    pub(crate) fn write_policy(&self, name: &str, key: &str) -> PathBuf {
        let file = self.path(name);
        let key = self.path(&format!("{key}.pub"));
        let policy = serde_json::json!({
            "default": [{ "type": "reject" }],
            "transports": { "docker": { (self.registry.host()): [{
                "type": "sigstoreSigned",
                "keyPath": key,
                "signedIdentity": { "type": "matchRepository" },
            }] } },
        });
        fs::write(&file, policy.to_string()).unwrap();
        file
    }

    /// Converts a layout's image and gives the layout of the result.
    pub(crate) fn convert(&self, source: &str, name: &str, format: Format) -> String {
        let target = format!("oci:{}:lazy", self.path(name).display());
        self.nacre([
            "image",
            "convert",
            source,
            &target,
            "--format",
            format.name(),
        ])
        .ok();
        target
    }

    /// Encrypts with skopeo, if asked to, and pushes.
    pub(crate) fn push(&self, layout: &str, image: &str, encrypted: bool) {
        let mut arguments = vec!["copy".to_owned(), "--dest-tls-verify=false".into()];
        if encrypted {
            arguments.push("--encryption-key".into());
            arguments.push(format!("jwe:{}", self.path("layer.pub").display()));
        }
        arguments.extend([
            "--quiet".into(),
            layout.to_owned(),
            format!("docker://{image}"),
        ]);
        tool("skopeo", arguments);
    }

    /// Signs by our own signer (the cosign test has cosign do it).
    pub(crate) fn sign(&self, image: &str, key: &str) {
        let key = self.path(&format!("{key}.key"));
        self.nacre(["image", "sign", "--key", key.to_str().unwrap(), image])
            .ok();
    }

    /// Runs `nacre` to its end.
    pub(crate) fn nacre<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        program::run(self.directory.path(), arguments)
    }

    /// A `nacre` command that sees nothing of this machine's configuration.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        program::command(self.directory.path(), arguments)
    }

    /// Options that open what this pipeline made: policy, key, a store of that name.
    pub(crate) fn options(&self, store: &str) -> Vec<String> {
        vec![
            "--policy".into(),
            self.path("policy.json").display().to_string(),
            "--decryption-key".into(),
            self.path("layer.pem").display().to_string(),
            "--store".into(),
            self.path(store).display().to_string(),
        ]
    }

    /// Mounts an image with these options; unmounted on drop.
    pub(crate) fn mount(&self, image: &str, options: &[String]) -> Result<MountedImage<'_>, Ran> {
        let directory = tempfile::tempdir_in(self.directory.path()).unwrap();
        let stats = self.path(&format!(
            "stats-{}",
            directory.path().file_name().unwrap().display()
        ));
        let mut arguments = vec![
            "mount".to_owned(),
            "--daemon".into(),
            image.into(),
            directory.path().display().to_string(),
            "--stats".into(),
            stats.display().to_string(),
        ];
        arguments.extend_from_slice(options);
        let ran = self.nacre(&arguments);
        match ran.code {
            0 => Ok(MountedImage {
                pipeline: self,
                directory,
                stats,
                mounted: true,
            }),
            _ => Err(ran),
        }
    }

    /// `umoci unpack` of a layout's image; gives the root file system.
    pub(crate) fn unpack(&self, layout: &str, name: &str) -> PathBuf {
        let bundle = self.path(name);
        let image = layout.strip_prefix("oci:").unwrap();
        tool(
            "umoci",
            ["unpack", "--image", image, bundle.to_str().unwrap()],
        );
        bundle.join("rootfs")
    }
}

/// What a process without optimisation may take to seal and write what is left on a busy machine.
const UMOUNT_SECONDS: &str = "60";

/// A mounted image.
pub(crate) struct MountedImage<'p> {
    pipeline: &'p Pipeline,
    directory: tempfile::TempDir,
    stats: PathBuf,
    mounted: bool,
}

// === impl MountedImage ===

impl MountedImage<'_> {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Unmounts and gives the statistics.
    pub(crate) fn unmount(mut self) -> serde_json::Value {
        self.mounted = false;
        self.pipeline
            .nacre([
                "umount",
                "--timeout",
                UMOUNT_SECONDS,
                self.directory.path().to_str().unwrap(),
            ])
            .ok();
        serde_json::from_slice(&fs::read(&self.stats).unwrap()).unwrap()
    }
}

impl Drop for MountedImage<'_> {
    fn drop(&mut self) {
        if self.mounted {
            self.pipeline
                .nacre(["umount", "--lazy", self.directory.path().to_str().unwrap()]);
        }
    }
}

/// Runs a tool that must succeed.
pub(crate) fn tool<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}");
    output
}
