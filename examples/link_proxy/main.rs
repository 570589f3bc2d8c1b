//! A link of a given rate and delay, on loopback: a TCP proxy in front of a registry that holds
//! bytes back as a slower network would, and counts connections, requests, bytes and dependent
//! round trips.
//! `scripts/bench-pull` measures through it; docs/benchmarks.md says what it models and what not.
//!
//! ```text
//! link_proxy serve LISTEN UPSTREAM     commands on standard input, one JSON line each as answer:
//!   link RATE DELAY      bytes a second each way (0: no limit), microseconds each way
//!   reset                forgets what was counted
//!   counters             what was counted since
//!   log                  every request since
//! link_proxy measure                   its own limits, as one JSON line
//! ```

mod connection;
mod http;
mod ledger;
mod link;
mod measure;

use std::{
    io::{self, BufRead, Write},
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use connection::Route;
use ledger::Ledger;
use link::Link;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["serve", listen, upstream] => serve(listen, upstream),
        ["measure"] => measure::measure().and_then(|it| print(&it)),
        _ => Err(io::Error::other(
            "usage: link_proxy serve LISTEN UPSTREAM | link_proxy measure",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until standard input ends.
fn serve(listen: &str, upstream: &str) -> io::Result<()> {
    let address = |text: &str| {
        let wrong = |e| io::Error::other(format!("address {text}: {e}"));
        text.parse::<SocketAddr>().map_err(wrong)
    };
    let route = Route {
        upstream: address(upstream)?,
        link: Arc::new(Link::default()),
        ledger: Arc::new(Ledger::default()),
    };
    let listener = TcpListener::bind(address(listen)?)
        .map_err(|e| io::Error::other(format!("listening on {listen}: {e}")))?;
    let accepting = route.clone();
    std::thread::spawn(move || accepting.accept(&listener));
    print(&serde_json::json!({ "listening": listen }))?;
    for line in io::stdin().lock().lines() {
        print(&answer(&route, &line?)?)?;
    }
    Ok(())
}

fn answer(route: &Route, line: &str) -> io::Result<serde_json::Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| {
        let wrong = |e| io::Error::other(format!("command {line}: {e}"));
        text.parse::<u64>().map_err(wrong)
    };
    Ok(match words[..] {
        ["link", rate, delay] => {
            let delay = Duration::from_micros(number(delay)?);
            route.link.set(number(rate)?, delay);
            serde_json::json!({ "link": line })
        }
        ["reset"] => {
            route.ledger.reset();
            serde_json::json!({ "reset": true })
        }
        ["counters"] => serde_json::to_value(route.ledger.counters())?,
        ["log"] => serde_json::to_value(route.ledger.log())?,
        _ => return Err(io::Error::other(format!("command {line}: unknown"))),
    })
}

fn print(value: &serde_json::Value) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{value}")?;
    output.flush()
}
