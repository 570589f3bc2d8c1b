//! Debian's `docker-registry` (distribution 2.8) on loopback, killed when dropped.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running registry with its own empty storage.
pub struct DockerRegistry {
    child: Child,
    host: String,
    directory: tempfile::TempDir,
    ca: Option<PathBuf>,
}

// === impl DockerRegistry ===

impl DockerRegistry {
    /// Starts it without TLS; `None`, with a printed line, where it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(false, false, "")
    }

    /// Starts it for those who can log in: by what its section `auth` says, in YAML.
    pub fn start_with_auth(auth: &str) -> Option<Self> {
        Self::start_with(false, false, auth)
    }

    /// Starts it with a certificate for 127.0.0.1 by an authority of its own.
    pub fn start_tls() -> Option<Self> {
        installed("openssl")?;
        Self::start_with(true, false, "")
    }

    /// As [`start_tls`](Self::start_tls), and clients need a certificate of its authority:
    /// [`client`](Self::client).
    pub fn start_mutual_tls() -> Option<Self> {
        installed("openssl")?;
        Self::start_with(true, true, "")
    }

    fn start_with(tls: bool, mutual: bool, auth: &str) -> Option<Self> {
        installed("docker-registry")?;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    \
             rootdirectory: {root}/storage\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:0\n"
        );
        let ca = tls.then(|| {
            certificates(directory.path());
            config +=
                &format!("  tls:\n    certificate: {root}/cert.pem\n    key: {root}/key.pem\n");
            if mutual {
                config += &format!("    clientcas:\n      - {root}/ca.pem\n");
            }
            directory.path().join("ca.pem")
        });
        if !auth.is_empty() {
            config += &format!("auth:\n{auth}");
        }
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        // The log is the event to wait for: it ends if the registry cannot start.
        let host = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let host = line
                .split_once("listening on ")
                .and_then(|(_, rest)| rest.split(['"', ',']).next())
                .map(ToOwned::to_owned);
            log.push(line);
            host
        });
        // Read to the end, or the registry would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(host) = host else {
            let _ = child.kill();
            panic!("docker-registry did not start:\n{}", log.join("\n"));
        };
        Some(Self {
            child,
            host,
            directory,
            ca,
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// A client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        let file = |name| self.directory.path().join(name);
        (file("client.pem"), file("client.key"))
    }

    /// Where it keeps what it stores.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// Kills it, as a registry that goes away.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Prints why a test is skipped if `program` is not there.
pub fn installed(program: &str) -> Option<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|path| path.join(program).is_file());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found.then_some(())
}

/// `ca.pem`; `cert.pem` with `key.pem` and `client.pem` with `client.key` signed by it.
fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority"
    ));
    openssl(&format!(
        "req {key} -keyout key.pem -out cert.csr -subj /CN=test-registry"
    ));
    std::fs::write(
        directory.join("san.ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    openssl(
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 \
         -extfile san.ext",
    );
    openssl(&format!(
        "req {key} -keyout client.key -out client.csr -subj /CN=test-client"
    ));
    std::fs::write(
        directory.join("client.ext"),
        "extendedKeyUsage=clientAuth\n",
    )
    .unwrap();
    openssl(
        "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 2 \
         -extfile client.ext",
    );
}
