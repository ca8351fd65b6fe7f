//! Requests one behind the other on connections that stay open, and how long each took.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// What is asked for, and by how many at a time.
pub struct Load {
    pub connections: usize,
    pub paths: Vec<String>,
}

/// How long every answer took.
pub struct Measured {
    latencies: Vec<Duration>,
    time: Duration,
}

/// One GET on a connection of its own: status and body.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut connection = Connection::open(server)?;
    connection.get(path)
}

/// One request that changes something, on a connection of its own: status and body.
pub fn send(server: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    Connection::open(server)?.send(method, path, body)
}

/// Deletes one after the other.
pub fn delete(server: SocketAddr, paths: &[String]) -> Result<()> {
    let mut connection = Connection::open(server)?;
    for path in paths {
        match connection.send("DELETE", path, "")? {
            (202, _) => {}
            (status, body) => return Err(format!("{path}: {status} {body}").into()),
        }
    }
    Ok(())
}

impl Load {
    /// Asks for everything once.
    pub fn once(&self, server: SocketAddr) -> Result<()> {
        let mut connection = Connection::open(server)?;
        for path in &self.paths {
            connection.expect(path)?;
        }
        Ok(())
    }

    /// Asks for so long.
    pub fn run(&self, server: SocketAddr, time: Duration) -> Result<Measured> {
        let began = Instant::now();
        self.run_until(server, || began.elapsed() >= time)
    }

    /// Asks until something is the case.
    pub fn run_until(&self, server: SocketAddr, is_over: impl Fn() -> bool) -> Result<Measured> {
        let (began, stop) = (Instant::now(), AtomicBool::new(false));
        let latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|number| {
                    let stop = &stop;
                    scope.spawn(move || self.ask(server, number, stop))
                })
                .collect();
            while !is_over() {
                std::thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Ordering::Relaxed);
            let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| "a client panicked")?);
            ended.collect::<Result<Vec<Vec<Duration>>>>()
        })?;
        Ok(Measured { latencies: latencies.concat(), time: began.elapsed() })
    }

    fn ask(&self, server: SocketAddr, number: usize, stop: &AtomicBool) -> Result<Vec<Duration>> {
        let (mut connection, mut latencies) = (Connection::open(server)?, Vec::new());
        // Each begins elsewhere.
        let from = number * self.paths.len() / self.connections;
        for path in self.paths.iter().cycle().skip(from) {
            let began = Instant::now();
            connection.expect(path)?;
            latencies.push(began.elapsed());
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(latencies)
    }
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

/// A connection that stays open.
struct Connection {
    server: SocketAddr,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(5)))?;
        Ok(Self { server, reader: BufReader::with_capacity(64 << 10, stream) })
    }

    fn expect(&mut self, path: &str) -> Result<()> {
        match self.get(path)? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{path}: {status} {body}").into()),
        }
    }

    fn get(&mut self, path: &str) -> Result<(u16, String)> {
        self.send("GET", path, "")
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let (server, length) = (self.server, body.len());
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n{body}");
        self.reader.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err("the connection ended before the head did".into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status == 0 {
                status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
            } else if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse()?;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
