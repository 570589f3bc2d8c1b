//! The proxy's own limits: what it carries without a rate, what a rate comes to, what it adds to a
//! request.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{connection::Route, ledger::Ledger, link::Link};

/// Bytes of one large answer.
const LARGE: u64 = 2 << 30;

/// Bytes of the answer that a rate is measured with.
const RATED: u64 = 64 << 20;

/// 1 Gbit/s.
const RATE: u64 = 125_000_000;

/// Small requests in turn.
const REQUESTS: u32 = 2000;

pub(crate) fn measure() -> io::Result<serde_json::Value> {
    let upstream = source()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxy = listener.local_addr()?;
    let route = Route {
        upstream,
        link: Arc::new(Link::default()),
        ledger: Arc::new(Ledger::default()),
    };
    let accepting = route.clone();
    std::thread::spawn(move || accepting.accept(&listener));
    let directly = fetch(upstream, LARGE)?;
    let through = fetch(proxy, LARGE)?;
    let added = many(proxy)?.saturating_sub(many(upstream)?) / REQUESTS;
    route.link.set(RATE, Duration::ZERO);
    let rated = fetch(proxy, RATED)?;
    route.link.set(0, Duration::from_millis(10));
    let delayed = fetch(proxy, 0)?;
    Ok(serde_json::json!({
        "gbit_per_s": gigabits(LARGE, through),
        "gbit_per_s_without_proxy": gigabits(LARGE, directly),
        "gbit_per_s_at_1_gbit": gigabits(RATED, rated),
        "ms_of_connect_and_request_at_20_ms": delayed.as_secs_f64() * 1e3,
        "added_us_per_request": added.as_secs_f64() * 1e6,
    }))
}

fn gigabits(bytes: u64, took: Duration) -> f64 {
    let megabytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    f64::from(megabytes) * 1.048_576 * 8.0 / 1000.0 / took.as_secs_f64()
}

/// A server that answers `GET /N` with N bytes.
fn source() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || answer(client));
        }
    });
    Ok(address)
}

fn answer(mut client: TcpStream) -> io::Result<()> {
    let block = vec![0; 1 << 20];
    client.set_nodelay(true)?;
    while let Some(head) = head(&mut client)? {
        let size = head.split([' ', '/']).nth(2).and_then(|it| it.parse().ok());
        let mut left: u64 = size.ok_or_else(|| io::Error::other(head.clone()))?;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n");
        client.write_all(answer.as_bytes())?;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            client.write_all(&block[..n])?;
            left -= n as u64;
        }
    }
    Ok(())
}

/// How long a fresh connection and one answer of that size take.
fn fetch(server: SocketAddr, bytes: u64) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server)?;
    request(&mut stream, bytes)?;
    Ok(start.elapsed())
}

/// How long many small requests take, one after the other.
fn many(server: SocketAddr) -> io::Result<Duration> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    for _ in 0..REQUESTS {
        request(&mut stream, 100)?;
    }
    Ok(start.elapsed())
}

fn request(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let request = format!("GET /{bytes} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    head(stream)?.ok_or_else(|| io::Error::other("no answer"))?;
    let mut block = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        match stream.read(&mut block[..n])? {
            0 => return Err(io::Error::other("the answer ends early")),
            n => left -= n as u64,
        }
    }
    Ok(())
}

/// Reads a head byte by byte, so that nothing of what follows is taken; `None` at the end.
fn head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte)? {
            0 => return Ok(None),
            _ => head.push(byte[0]),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
