//! HTTP/1.1 by hand over a socket, so that an answer can go wrong at any byte.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Shared;
use super::record::Request;
use super::reply::{Framing, Reply, reply};
use super::script::Fault;

/// Serves one connection until either side ends it.
pub async fn serve(shared: Arc<Shared>, mut stream: TcpStream) -> io::Result<()> {
    while let Some(request) = read_request(&mut stream).await? {
        let number = shared.record(request.clone());
        let (reply, fault) = reply(&shared, &request);
        match &fault {
            Some(Fault::Silent) => return std::future::pending().await,
            Some(Fault::Hangup) => return Ok(()),
            Some(Fault::NotHttp) => return stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await,
            Some(Fault::SlowFirstByte(gate)) => gate.pass().await,
            _ => {}
        }
        shared.answered(number, reply.status);
        stream.write_all(reply.head().as_bytes()).await?;
        if request.method != "HEAD" {
            let mut body = BodyWriter { shared: &shared, number, stream: &mut stream };
            body.send(&reply, fault.as_ref()).await?;
        }
        if reply.closes {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let Some(mut request) = Request::parse(&String::from_utf8_lossy(&head)) else { return Ok(None) };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    // The parameters of a form are looked for where those of a query are.
    if request.header("content-type") == Some("application/x-www-form-urlencoded") {
        request.query = String::from_utf8_lossy(&body).into_owned();
    }
    Ok(Some(request))
}

struct BodyWriter<'a> {
    shared: &'a Shared,
    number: usize,
    stream: &'a mut TcpStream,
}

impl BodyWriter<'_> {
    async fn send(&mut self, reply: &Reply, fault: Option<&Fault>) -> io::Result<()> {
        let body = &reply.body;
        match (fault, reply.framing) {
            (Some(Fault::Drip(gate, piece)), _) => {
                for piece in body.chunks(*piece) {
                    gate.pass().await;
                    self.write(piece).await?;
                }
                Ok(())
            }
            (Some(Fault::StandAt(gate, offset)), _) => {
                let before = first(body, offset.saturating_sub(reply.start()));
                self.write(before).await?;
                if before.len() < body.len() {
                    gate.pass().await;
                }
                self.write(&body[before.len()..]).await
            }
            (Some(Fault::CutAfter(bytes)), _) => self.write(first(body, *bytes)).await,
            (Some(Fault::ResetAfter(bytes)), _) => {
                self.write(first(body, *bytes)).await?;
                self.stream.set_zero_linger()
            }
            (_, Framing::Endless) => loop {
                self.write_chunk(&[b'x'; 4096]).await?;
            },
            (_, Framing::Chunked) => {
                for piece in body.chunks(1000) {
                    self.write_chunk(piece).await?;
                }
                self.stream.write_all(b"0\r\n\r\n").await
            }
            (_, Framing::Length(_)) => self.write(body).await,
        }
    }

    async fn write_chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        self.stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        self.write(piece).await?;
        self.stream.write_all(b"\r\n").await
    }

    async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.stream.write_all(piece).await?;
        self.shared.sent(self.number, piece.len() as u64);
        Ok(())
    }
}

fn first(body: &Bytes, bytes: u64) -> &[u8] {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(body.len());
    &body[..length]
}
