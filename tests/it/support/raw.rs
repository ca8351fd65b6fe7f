//! A connection spoken to byte by byte: bodies in pieces, several requests, heads that no client would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Answer, Reading};

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection. Dropped, it is closed wherever it is.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("the registry listens"))
    }

    /// A connection on which a request's head was sent, `host` included; the caller adds what frames the body.
    pub async fn begin(address: SocketAddr, method: &str, path: &str, headers: &str) -> Self {
        let mut raw = Self::to(address).await;
        raw.write(format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n")).await;
        raw
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the registry takes bytes");
    }

    /// As [`Raw::write`], where the registry may have hung up already.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// One piece of a chunked body; an empty one ends it.
    pub async fn chunk(&mut self, bytes: &[u8]) {
        self.write(format!("{:x}\r\n", bytes.len())).await;
        self.write(bytes).await;
        self.write("\r\n").await;
    }

    /// The answer to the one request on this connection.
    pub async fn answer(self, method: &str) -> Answer {
        Reading::begin(self.0, method).await.expect("an answer has a head").finish().await
    }

    /// The next bytes, whatever they are.
    pub async fn read(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let read = timeout(PATIENCE, self.0.read(&mut bytes)).await.expect("bytes come in time");
        bytes.truncate(read.expect("the connection holds"));
        bytes
    }

    /// What comes first; nothing if the connection ends before.
    pub async fn first_bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        let read = timeout(PATIENCE, self.0.read(&mut bytes)).await.expect("the registry answers or closes in time");
        bytes.truncate(read.unwrap_or(0));
        bytes
    }

    /// All that comes until the registry closes. A reset counts as closed.
    pub async fn until_closed(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("the registry closes in time");
        bytes
    }
}
