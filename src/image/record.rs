//! Runs a command on a lazily mounted image and notes what it reads.
//!
//! The kernel is told not to read ahead, so that only what the command touches is noted. The command
//! runs in mount and process namespaces of its own over a writable copy-on-write layer in memory;
//! its root has `/proc`, `/dev` and the environment of the image's configuration, and nothing of the
//! image is changed.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    engine::{Profile, ReadFile},
    error::{Error, Result},
    mount::{self, MountOptions, Mounted},
    open::OpenImage,
};

/// What is run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// `KEY=VALUE` for its environment, and nothing else.
    pub environment: Vec<String>,
    /// Ends it when a line of its output contains this: for services, which do not end.
    pub until: Option<String>,
}

/// Where the parts are mounted while it runs. Dropping it takes them away.
struct Place {
    directory: PathBuf,
    mounted: Vec<PathBuf>,
    image: Option<Mounted>,
}

/// Runs the workload and gives what it read, with how it ended (none if it was ended at its line).
///
/// # Errors
/// `Io` or `Denied` if the image cannot be mounted or the command not be started (it needs root);
/// what it read up to a failure of its own is given all the same.
pub fn record(
    image: &OpenImage,
    workload: &Workload,
    reference: &str,
) -> Result<(Profile, Option<ExitStatus>)> {
    let mut place = Place::new()?;
    let lower = place.make("lower")?;
    let options = MountOptions {
        // Zero is taken for one page by the kernel.
        read_ahead_kib: Some(0),
        ..MountOptions::new(reference)
    };
    let reader = Arc::clone(&image.engine) as Arc<dyn ReadFile>;
    place.image = Some(mount::mount(
        Arc::clone(&image.tree),
        reader,
        &lower,
        &options,
    )?);
    let root = place.overlay(&lower)?;
    image.engine.record();
    let ended = run(workload, &root)?;
    Ok((image.engine.recorded(), ended))
}

fn run(workload: &Workload, root: &Path) -> Result<Option<ExitStatus>> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .arg(format!("--root={}", root.display()))
        .arg("--mount-proc=/proc")
        .arg("--")
        .args(&workload.command)
        .env_clear()
        .envs(
            workload
                .environment
                .iter()
                .filter_map(|it| it.split_once('=')),
        )
        .stdin(Stdio::null());
    let until = match &workload.until {
        Some(line) => {
            // Services tell that they are ready on either.
            let pipe = |e| Error::io("pipe", e);
            let (output, input) = std::io::pipe().map_err(pipe)?;
            command.stdout(input.try_clone().map_err(pipe)?);
            command.stderr(input);
            Some((line, output))
        }
        None => None,
    };
    let spawned = command.spawn();
    // With its ends of the pipe, so that the output ends with the child's.
    drop(command);
    let mut child = spawned.map_err(|e| {
        Error::io("unshare", e).with_hint("it comes with util-linux, and needs root")
    })?;
    let reached = match until {
        Some((line, output)) => pass_on_until(output, line)?,
        None => false,
    };
    if reached {
        child
            .kill()
            .map_err(|e| Error::io("ending the command", e))?;
    }
    let status = child
        .wait()
        .map_err(|e| Error::io("waiting for the command", e))?;
    Ok((!reached).then_some(status))
}

/// Passes lines on to standard output until one contains `line`; says whether one did.
fn pass_on_until(output: impl Read, line: &str) -> Result<bool> {
    let mut output = BufReader::new(output);
    let mut said = Vec::new();
    loop {
        said.clear();
        let length = output
            .read_until(b'\n', &mut said)
            .map_err(|e| Error::io("output of the command", e))?;
        if length == 0 {
            return Ok(false);
        }
        // The profile goes to a file; standard output is the command's.
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(&said)
            .and_then(|()| stdout.flush())
            .map_err(|e| Error::io("standard output", e))?;
        if String::from_utf8_lossy(&said).contains(line) {
            return Ok(true);
        }
    }
}

// === impl Place ===

impl Place {
    fn new() -> Result<Self> {
        let salt = getrandom::u64().map_err(|e| Error::internal(format!("random: {e}")))?;
        let directory = std::env::temp_dir().join(format!("nacre-record-{salt:016x}"));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&directory)
            .map_err(|e| Error::io(directory.display().to_string(), e))?;
        Ok(Self {
            directory,
            mounted: Vec::new(),
            image: None,
        })
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
        Ok(path)
    }

    /// A writable root over `lower`, what is written in memory, with the host's `/dev`.
    fn overlay(&mut self, lower: &Path) -> Result<PathBuf> {
        let memory = self.make("memory")?;
        self.mount("tmpfs", &memory, "tmpfs", MsFlags::empty(), "mode=700")?;
        let (upper, work) = (self.make("memory/upper")?, self.make("memory/work")?);
        let root = self.make("root")?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        self.mount("overlay", &root, "overlay", MsFlags::empty(), &options)?;
        for name in ["proc", "dev"] {
            let path = root.join(name);
            if let Err(e) = std::fs::create_dir(&path)
                && e.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(Error::io(path.display().to_string(), e));
            }
        }
        let devices = root.join("dev");
        self.mount("/dev", &devices, "", MsFlags::MS_BIND, "")?;
        Ok(root)
    }

    fn mount(
        &mut self,
        source: &str,
        target: &Path,
        kind: &str,
        flags: MsFlags,
        options: &str,
    ) -> Result<()> {
        mount(Some(source), target, Some(kind), flags, Some(options))
            .map_err(|e| Error::io(format!("mount over {}", target.display()), e.into()))?;
        self.mounted.push(target.to_owned());
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for target in self.mounted.drain(..).rev() {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            if let Err(error) = umount2(&target, flags) {
                tracing::warn!(target = %target.display(), %error, "mount stays behind");
                return;
            }
        }
        if let Some(image) = self.image.take()
            && let Err(error) = image.unmount()
        {
            tracing::warn!(%error, "mount stays behind");
            return;
        }
        // Whatever was in them was a mount, and is gone.
        for name in ["root", "memory", "lower", ""] {
            let path = self.directory.join(name);
            match std::fs::remove_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "directory stays behind");
                }
                _ => {}
            }
        }
    }
}
