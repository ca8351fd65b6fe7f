//! The first bytes of a connection tell which protocol the client speaks.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::introduction::{self, Parsed};

/// What every HTTP/2 client with prior knowledge sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The record type every TLS hello begins with (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Room for a whole TLS hello with post-quantum key shares, and for the head of nearly every request.
const OPENING_BYTES: usize = 4096;

/// The most that is read and thrown away of a client that is told to go.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;

/// How long a client that is told to go may take to do so.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// A head that Go's clients know as "server gave HTTP response to HTTPS client", on which they fall back to plain HTTP.
pub const ANSWER_TO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\
    Content-Length: 68\r\n\
    \r\n\
    This port speaks plain HTTP, but the client began a TLS handshake.\r\n";

/// For those who speak plain HTTP on a port with TLS: as any other error, so that docker, which tries that after TLS has
/// failed, shows the message.
pub const ANSWER_TO_PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: application/json\r\n\
    Connection: close\r\n\
    Content-Length: 91\r\n\
    \r\n\
    {\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"this port speaks TLS: ask it with https://\"}]}\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Also everything unknown: the parser answers nonsense with 400.
    Http1,
    Http2,
    Tls,
}

/// What `opening` proves so far; `None` while it may still become HTTP/1 or HTTP/2.
fn recognise(opening: &[u8]) -> Option<Protocol> {
    let common = opening.len().min(PREFACE.len());
    match opening {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Protocol::Tls),
        _ if opening[..common] != PREFACE[..common] => Some(Protocol::Http1),
        _ => (common == PREFACE.len()).then_some(Protocol::Http2),
    }
}

/// Reads what a trusted proxy says first: whose the connection is, and what was read beyond that. `None` when it does not say
/// so properly.
///
/// The caller bounds the time.
pub async fn introduced(stream: &mut TcpStream) -> io::Result<Option<(Option<SocketAddr>, BytesMut)>> {
    let mut opening = BytesMut::new();
    loop {
        match introduction::parse(&opening) {
            Parsed::Complete { client, len } => {
                opening.advance(len);
                return Ok(Some((client, opening)));
            }
            Parsed::Invalid => return Ok(None),
            Parsed::Incomplete if read_some(stream, &mut opening).await? == 0 => return Ok(None),
            Parsed::Incomplete => {}
        }
    }
}

async fn read_some(stream: &mut TcpStream, opening: &mut BytesMut) -> io::Result<usize> {
    opening.reserve(OPENING_BYTES);
    stream.read_buf(opening).await
}

/// Reads until the protocol is known, and returns it with what was read, `opening` included; `None` when the client left
/// without a word.
///
/// The caller bounds the time.
pub async fn read(stream: &mut TcpStream, mut opening: BytesMut) -> io::Result<Option<(Protocol, Bytes)>> {
    loop {
        if let Some(protocol) = recognise(&opening) {
            return Ok(Some((protocol, opening.freeze())));
        }
        if read_some(stream, &mut opening).await? == 0 {
            return Ok((!opening.is_empty()).then(|| (Protocol::Http1, opening.freeze())));
        }
    }
}

/// Tells a client of the wrong protocol what is wrong and closes.
pub async fn refuse(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    part(&mut stream).await
}

/// Closes so that what was said last is heard: a socket that is closed with unread bytes is reset, and a client that sees
/// the reset may never look at the answer or the alert before it.
///
/// Waits for the client to close too, [`PARTING_TIME`] at most, and reads no more than [`DRAIN_BYTES_MAX`].
pub async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let (mut rest, mut nowhere) = (stream.take(DRAIN_BYTES_MAX), tokio::io::sink());
    let drained = timeout(PARTING_TIME, tokio::io::copy(&mut rest, &mut nowhere)).await;
    drained.unwrap_or(Ok(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preface_is_recognised_only_when_complete() {
        assert_eq!(recognise(b""), None);
        for len in 1..PREFACE.len() {
            assert_eq!(recognise(&PREFACE[..len]), None, "{len} bytes");
        }
        assert_eq!(recognise(PREFACE), Some(Protocol::Http2));
        assert_eq!(recognise(&[PREFACE, b"more"].concat()), Some(Protocol::Http2));
    }

    #[test]
    fn requests_that_begin_like_the_preface_are_http1() {
        assert_eq!(recognise(b"P"), None);
        assert_eq!(recognise(b"PU"), Some(Protocol::Http1));
        assert_eq!(recognise(b"PROPFIND / HTTP/1.1"), Some(Protocol::Http1));
        assert_eq!(recognise(b"PRI * HTTP/1.1"), Some(Protocol::Http1));
        assert_eq!(recognise(b"GET /v2/ HTTP/1.1"), Some(Protocol::Http1));
    }

    #[test]
    fn one_byte_of_a_tls_hello_is_enough() {
        assert_eq!(recognise(&[0x16]), Some(Protocol::Tls));
        assert_eq!(recognise(&[0x16, 3, 1, 2, 0]), Some(Protocol::Tls));
    }

    #[test]
    fn answers_state_their_own_length() {
        for answer in [ANSWER_TO_TLS, ANSWER_TO_PLAIN] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
        }
    }
}
