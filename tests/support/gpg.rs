//! GnuPG with keys in a directory of its own, skopeo that signs with them, and a web server for
//! what they wrote.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::docker_registry::installed;

/// GnuPG and its keys.
#[derive(Debug)]
pub struct Gpg {
    home: tempfile::TempDir,
    /// What skopeo writes signatures into, and the `registries.d` that says so.
    pub lookaside: PathBuf,
    pub registries_d: PathBuf,
}

/// A web server on loopback: paths and what is there. Everything else is 404.
#[derive(Clone, Debug)]
pub struct Web {
    pub address: std::net::SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    /// Paths that were asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
}

type Page = (u16, Vec<(String, String)>, Vec<u8>);

// === impl Gpg ===

impl Gpg {
    /// `None`, after saying so, where a program is missing.
    pub fn start() -> Option<Self> {
        installed("gpg")?;
        installed("skopeo")?;
        let home = tempfile::tempdir().unwrap();
        let (lookaside, registries_d) =
            (home.path().join("sigs"), home.path().join("registries.d"));
        std::fs::create_dir(home.path().join("gnupg")).unwrap();
        std::fs::create_dir(&lookaside).unwrap();
        std::fs::create_dir(&registries_d).unwrap();
        let gpg = Self {
            home,
            lookaside,
            registries_d,
        };
        gpg.configure(&format!("file://{}", gpg.lookaside.display()));
        Some(gpg)
    }

    /// Writes `registries.d` anew.
    pub fn configure(&self, url: &str) {
        let text = format!("default-docker:\n  lookaside: {url}\n");
        std::fs::write(self.registries_d.join("default.yaml"), text).unwrap();
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env("GNUPGHOME", self.home.path().join("gnupg"))
            .env("HOME", self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs gpg; gives what it prints.
    pub fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self
            .program("gpg")
            .args(["--batch", "--quiet", "--yes", "--no-permission-warning"])
            .args(["--pinentry-mode", "loopback", "--passphrase", ""])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {arguments:?}: {said}");
        output.stdout
    }

    /// A key pair made at `time`; `kind` as `--quick-generate-key` takes it.
    pub fn generate(&self, name: &str, kind: &str, time: &str) {
        let user = format!("{name}@example");
        let time = ["--faked-system-time", time, "--quick-generate-key"];
        self.run(&[&time[..], &[&user, kind, "sign", "0"]].concat());
    }

    /// The public key in a file.
    pub fn export(&self, name: &str) -> PathBuf {
        let file = self.home.path().join(format!("{name}.gpg"));
        std::fs::write(&file, self.run(&["--export", &format!("{name}@example")])).unwrap();
        file
    }

    /// Lets the key end a day after `time`.
    pub fn expire(&self, name: &str, time: &str) {
        let user = format!("{name}@example");
        let listed = self.run(&["--with-colons", "--list-keys", &user]);
        let listed = String::from_utf8(listed).unwrap();
        let line = listed.lines().find(|it| it.starts_with("fpr:")).unwrap();
        let fingerprint = line.split(':').nth(9).unwrap();
        self.run(&[
            "--faked-system-time",
            time,
            "--quick-set-expire",
            fingerprint,
            "1d",
        ]);
    }

    /// `skopeo copy --sign-by` of an image onto itself; more options before it.
    pub fn sign(&self, name: &str, image: &str, options: &[&str]) {
        let image = format!("docker://{image}");
        let output = self
            .program("skopeo")
            .arg("--registries.d")
            .arg(&self.registries_d)
            .args(["--insecure-policy", "copy", "--preserve-digests", "--all"])
            .args([
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--sign-by",
            ])
            .arg(format!("{name}@example"))
            .args(options)
            .args([&image, &image])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo: {said}");
    }

    /// The signature files of a manifest.
    pub fn signatures(&self, path: &str, hex: impl std::fmt::Display) -> PathBuf {
        self.lookaside.join(format!("{path}@sha256={hex}"))
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = self.program("gpgconf").args(["--kill", "all"]).status();
    }
}

// === impl Web ===

impl Web {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            pages: Arc::default(),
            asked: Arc::default(),
        };
        let served = web.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move { served.answer(stream).await });
            }
        });
        web
    }

    pub fn put(&self, path: &str, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        let page = (status, headers, body.to_vec());
        self.pages.lock().unwrap().insert(path.into(), page);
    }

    /// Every file of a directory, below a path.
    pub fn put_directory(&self, path: &str, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let body = std::fs::read(entry.path()).unwrap();
            self.put(&format!("{path}/{name}"), 200, &[], &body);
        }
    }

    async fn answer(&self, mut stream: tokio::net::TcpStream) {
        let mut path = String::new();
        {
            let mut lines = BufReader::new(&mut stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if path.is_empty() {
                    path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                }
                if line.is_empty() {
                    break;
                }
            }
        }
        self.asked.lock().unwrap().push(path.clone());
        let page = self.pages.lock().unwrap().get(&path).cloned();
        let (status, headers, body) = page.unwrap_or((404, Vec::new(), Vec::new()));
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (key, value) in headers {
            head += &format!("{key}: {value}\r\n");
        }
        head += "Connection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
        let _ = stream.shutdown().await;
    }
}
