//! The command line: one file for each subcommand, shared options in `args`.

mod args;
mod behind;
mod cat;
mod config;
mod conformance;
mod discover;
mod image;
mod inspect;
mod keeper;
mod logging;
mod ls;
mod mount;
mod output;
mod profile;
mod pull;
mod release;
mod sbom;
mod serve;
mod status;
mod table;
mod token;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::output::Output;
use crate::error::{Error, Result};

/// Mounts encrypted, signed container images lazily.
#[derive(Debug, Parser)]
#[command(name = "nacre", version, after_help = EXIT_CODES)]
struct Cli {
    /// Print results and errors as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Log more: -v for information, -vv for debugging. RUST_LOG wins.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount an image lazily on a directory.
    Mount(mount::Mount),
    /// Unmount what `nacre mount` mounted.
    Umount(mount::Umount),
    /// Show what an image is: layers, keys, indexes, lazy or not and why.
    Inspect(inspect::Inspect),
    /// Ask the policy, and show the grant.
    Verify(verify::Verify),
    /// Find an image by name in a lookup table: print its pinned reference, or its signed measurements.
    Discover(discover::Discover),
    /// Find an image's bills of materials (SBOMs), and say whose word each is.
    Sbom(sbom::Sbom),
    /// List files of an image without mounting it.
    Ls(ls::Ls),
    /// Print a file of an image without mounting it.
    Cat(cat::Cat),
    /// Verify and unpack a whole image into an OCI runtime bundle.
    Pull(pull::Pull),
    /// Serve containerd: a snapshotter that mounts images lazily.
    Serve(serve::Serve),
    /// Show what a running `nacre serve` is doing: readiness, mounts, store, keys, policy.
    Status(status::Status),
    /// Take away the mounts that `nacre serve` left for its successor.
    Release(release::Release),
    /// Keep mounts alive while no daemon serves them.
    #[command(hide = true)]
    Keeper(keeper::Keeper),
    /// Do one operation of a PKCS#11 token.
    #[command(hide = true)]
    Token(token::Token),
    /// Check the configuration of `nacre serve`, or print its defaults.
    #[command(subcommand)]
    Config(config::Config),
    /// Speak the client protocols of conformance suites.
    #[command(subcommand, hide = true)]
    Conformance(conformance::Conformance),
    /// Make images: convert, copy, encrypt, decrypt, sign, profile.
    #[command(subcommand)]
    Image(image::Image),
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 a defect in nacre, 2 wrong usage, 3 invalid input, 4 denied (policy, key, \
registry), 5 corrupt data, 6 not found, 7 unavailable, 8 busy, 9 unsupported, 10 a local resource \
failed.";

/// Runs the command line and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    // The keeper has nobody to tell.
    if !matches!(cli.command, Command::Serve(_) | Command::Keeper(_)) {
        init_logging(cli.verbose, cli.json);
    }
    match run(cli.command, cli.verbose, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(command: Command, verbose: u8, output: &Output) -> Result<()> {
    // `umount` needs no runtime, and `mount --daemon` starts another process before it makes one.
    match command {
        Command::Mount(mount) => mount.run(output),
        Command::Umount(umount) => umount.run(output),
        Command::Inspect(inspect) => runtime()?.block_on(inspect.run(output)),
        Command::Verify(verify) => runtime()?.block_on(verify.run(output)),
        Command::Discover(discover) => runtime()?.block_on(discover.run(output)),
        Command::Sbom(sbom) => runtime()?.block_on(sbom.run(output)),
        Command::Ls(ls) => runtime()?.block_on(ls.run(output)),
        Command::Cat(cat) => runtime()?.block_on(cat.run()),
        Command::Pull(pull) => runtime()?.block_on(pull.run(output)),
        Command::Image(image) => runtime()?.block_on(image.run(output)),
        Command::Config(config) => config.run(output),
        Command::Conformance(conformance) => conformance.run(),
        Command::Status(status) => status.run(output),
        Command::Release(release) => release.run(output),
        Command::Keeper(keeper) => keeper.run(),
        Command::Token(token) => token.run(),
        // Logs as its configuration says.
        Command::Serve(serve) => serve.run(verbose, output),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", e))
}

fn init_logging(verbose: u8, json: bool) {
    let level = match verbose {
        0 => "nacre=warn",
        1 => "nacre=info",
        _ => "nacre=debug",
    };
    logging::init(level, json);
}
