//! The socket under hyper: ordinary slices leave by `sendmsg(2)`, slices of a blob's mapping by `sendfile(2)`.
//!
//! A peer that accepts no byte for the write timeout while some are waiting ends the connection. A connection that is
//! marked as aborted ends with a reset instead of an orderly close, so that a body without length or chunks
//! (HTTP/1.0) is never taken for complete.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::sendfile::{Lead, Mappings};

/// A TCP connection of the plain port.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was read to recognise the protocol; the first to be read again.
    opening: Bytes,
    mappings: Arc<Mappings>,
    /// Whether the kernel holds short segments back, from the first bytes of a file until its body ends or waits.
    corked: bool,
    stall: Stall,
    abort: AbortHandle,
}

/// Marks a connection as broken: when dropped it resets the peer instead of saying goodbye.
#[derive(Clone, Debug, Default)]
pub struct AbortHandle(Arc<AtomicBool>);

impl AbortHandle {
    pub fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_aborted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// `opening` is what was already read of `stream`; `write_timeout` is how long the peer may accept nothing.
    pub fn new(stream: TcpStream, opening: Bytes, write_timeout: Duration) -> Self {
        Self {
            stream,
            opening,
            mappings: Arc::default(),
            corked: false,
            stall: Stall::new(write_timeout),
            abort: AbortHandle::default(),
        }
    }

    /// The table in which bodies of this connection register what may leave by `sendfile(2)`.
    pub fn mappings(&self) -> &Arc<Mappings> {
        &self.mappings
    }

    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Without the cork every acknowledgement that comes in makes the kernel send the segment that `sendfile` is just
    /// filling; full ones only were up to a seventh faster on loopback, while taking it off between two pieces cost
    /// more than it had brought. A kernel that refuses sends the same bytes in other segments.
    fn cork(&mut self, corked: bool) {
        if self.corked != corked {
            let _ = rustix::net::sockopt::set_tcp_cork(&self.stream, corked);
            self.corked = corked;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.abort.is_aborted() {
            // Failure would mean an orderly close, which clients with a length or chunks see through anyway.
            let _ = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.opening.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let len = this.opening.len().min(buf.remaining());
        buf.put_slice(&this.opening[..len]);
        this.opening.advance(len);
        if this.opening.is_empty() {
            this.opening = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    /// Sends what stands first, memory or file, and returns what the socket took of it.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = match this.mappings.lead(slices) {
            Lead::Memory { count, file_follows } => {
                poll_socket(&this.stream, cx, || send(&this.stream, &slices[..count], file_follows))
            }
            Lead::File(extent) => {
                this.cork(true);
                poll_socket(&this.stream, cx, || this.mappings.send(&this.stream, &extent))
            }
        };
        let sent = this.stall.observe(cx, sent);
        if matches!(sent, Poll::Ready(Err(_))) {
            this.abort.abort();
        }
        sent
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.mappings.more_follows() {
            this.cork(false);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// `file_follows` holds a short head back until the file's first bytes join it in one segment.
fn send(stream: &TcpStream, slices: &[IoSlice<'_>], file_follows: bool) -> io::Result<usize> {
    let flags = if file_follows { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    Ok(rustix::net::sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
}

/// Runs `operation` on the non-blocking `stream` as soon as and as often as the socket may take bytes.
fn poll_socket(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut operation: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, &mut operation) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            sent => return Poll::Ready(sent),
        }
    }
}

/// The limit on how long a peer may accept no byte.
#[derive(Debug)]
struct Stall {
    timeout: Duration,
    /// Made when the peer first lets us wait, used again after that.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Stall {
    fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: None, waiting: false }
    }

    /// Passes `sent` on, or fails with `TimedOut` when nothing was sent since the wait began.
    fn observe(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if sent.is_ready() {
            self.waiting = false;
            return sent;
        }
        let timeout = self.timeout;
        let deadline = self.deadline.get_or_insert_with(|| {
            self.waiting = true;
            Box::pin(tokio::time::sleep(timeout))
        });
        if !self.waiting {
            self.waiting = true;
            deadline.as_mut().reset(Instant::now() + timeout);
        }
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer accepted nothing within the write timeout")))
    }
}

#[cfg(test)]
mod tests;
