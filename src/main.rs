//! The `nacre` command.

fn main() -> std::process::ExitCode {
    nacre::cli::main()
}
