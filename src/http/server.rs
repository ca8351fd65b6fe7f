//! The accept loop of the plain port, and the life of each connection it accepts.
//!
//! ```text
//! accept (one permit each) ─ first bytes ─┬─ HTTP/1 ──┐
//!                                         ├─ HTTP/2 ──┴─ router, with peer and mappings in the request's extensions
//!                                         └─ TLS hello ─ told and closed
//! shutdown: stop accepting ─ running requests end within the grace ─ the rest is reset
//! ```
//!
//! The protocol is told apart here and not by hyper-util's automatic builder: that one waits without limit for the
//! rest of a preface, and leaves most of a TLS hello unread, so that closing would reset the client before it reads
//! the answer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::future::RouteFuture;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use tracing::{debug, warn};

use super::connection::{AbortHandle, Connection};
use super::opening::{self, Protocol};
use super::sendfile::Mappings;

/// What is read of a request's body at a time (HTTP/1). hyper would let it grow to three times as much for each upload.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG_MAX: u32 = 4096;

/// Limits of the plain port.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections open at a time; more wait in the listener's backlog.
    pub connections_max: usize,
    /// How long a client may take for the head of a request, also while a kept-alive connection idles before it.
    pub header_timeout: Duration,
    /// How long a client may accept no byte of an answer.
    pub write_timeout: Duration,
    /// How long running requests may go on after shutdown began.
    pub shutdown_grace: Duration,
    /// Size of a request's head, and of the decoded header list in HTTP/2.
    pub header_bytes_max: u32,
    /// Header fields of a request (HTTP/1).
    pub headers_max: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// What a client may send on one stream before it must wait for us (HTTP/2).
    pub stream_window_bytes: u32,
    /// What a client may send on one connection before it must wait for us (HTTP/2).
    pub connection_window_bytes: u32,
    /// Silence after which an HTTP/2 client is pinged, and again how long it may take to answer.
    pub ping_interval: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 8192,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_mins(1),
            shutdown_grace: Duration::from_secs(30),
            header_bytes_max: 64 * 1024,
            headers_max: 100,
            streams_max: 128,
            stream_window_bytes: 1024 * 1024,
            connection_window_bytes: 8 * 1024 * 1024,
            ping_interval: Duration::from_secs(20),
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Connections that were still busy when the grace was over, and were reset.
    pub connections_cut: usize,
}

/// Serves `router` on `listener` until `shutdown` is cancelled and every connection has ended.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> Served {
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let connections = TaskTracker::new();
    let shutdown_grace = options.shutdown_grace;
    let server = Arc::new(Server::new(router, options, shutdown.clone()));

    let accepting = async {
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            let (stream, peer) = accept(&listener).await;
            let server = Arc::clone(&server);
            connections.spawn(async move {
                server.welcome(stream, peer).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = accepting => match never {},
    }

    drop(listener);
    connections.close();
    let connections_cut = match timeout(shutdown_grace, connections.wait()).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    server.cut.cancel();
    connections.wait().await;
    Served { connections_cut }
}

/// Listens on an address. Connections wait for their turn to be accepted: a fleet that begins to pull at once must not be
/// turned away by the kernel, whose queue is short (128) unless it is told otherwise.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As every server does: an address is free again as soon as its last user is gone.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)
}

/// Waits for the next connection, however long the process is short of what it takes to accept one.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        let error = match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        if let Some(pause) = pause_after(&error) {
            warn!(%error, "cannot accept connections, trying again in {pause:?}");
            tokio::time::sleep(pause).await;
        }
    }
}

/// How long to wait before accepting again: not at all when only the one connection is lost (`accept(2)`, "Error
/// handling").
fn pause_after(error: &io::Error) -> Option<Duration> {
    use rustix::io::Errno;
    const OF_ONE_CONNECTION: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
    ];
    const SHORT_OF_RESOURCES: Duration = Duration::from_millis(100);
    let of_one = Errno::from_io_error(error).is_some_and(|errno| OF_ONE_CONNECTION.contains(&errno));
    (!of_one).then_some(SHORT_OF_RESOURCES)
}

struct Server {
    router: Router,
    options: ServerOptions,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// No further request after this.
    shutdown: CancellationToken,
    /// No further byte after this.
    cut: CancellationToken,
}

impl Server {
    fn new(router: Router, options: ServerOptions, shutdown: CancellationToken) -> Self {
        let mut http1 = http1::Builder::new();
        // The header timeout does nothing without a timer. `pipeline_flush` must stay off: it copies bodies into
        // memory.
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_headers(options.headers_max)
            .max_header_size(options.header_bytes_max as usize)
            .max_buf_size(READ_BUFFER_BYTES_MAX);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(options.ping_interval)
            .keep_alive_timeout(options.ping_interval)
            .max_concurrent_streams(options.streams_max)
            .max_header_list_size(options.header_bytes_max)
            .initial_stream_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.connection_window_bytes);
        // With its state given, the router prepares its routes once instead of once a request.
        let router = router.with_state(());
        Self { router, options, http1, http2, shutdown, cut: CancellationToken::new() }
    }

    /// A connection's whole life.
    async fn welcome(&self, mut stream: TcpStream, peer: SocketAddr) {
        let opened = tokio::select! {
            opened = timeout(self.options.header_timeout, opening::read(&mut stream)) => opened,
            () = self.shutdown.cancelled() => return,
        };
        match opened {
            Ok(Ok(Some((Protocol::Tls, _)))) => {
                debug!(%peer, "TLS hello on the plain port");
                // The client may be gone; there is nothing more to tell it.
                let _ = timeout(self.options.write_timeout, opening::refuse_tls(stream)).await;
            }
            Ok(Ok(Some((protocol, opening)))) => self.converse(stream, peer, protocol, opening).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => debug!(%peer, %error, "connection ended before its first request"),
            Err(_) => debug!(%peer, "connection sent no request in time"),
        }
    }

    async fn converse(&self, stream: TcpStream, peer: SocketAddr, protocol: Protocol, opening: bytes::Bytes) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection is served with delayed small segments");
        }
        let connection = Connection::new(stream, opening, self.options.write_timeout);
        let abort = connection.abort_handle();
        let requests = Requests { router: self.router.clone(), peer, mappings: Arc::clone(connection.mappings()) };
        let io = TokioIo::new(connection);
        let ended = if protocol == Protocol::Http2 {
            self.drive(self.http2.serve_connection(io, requests), &abort).await
        } else {
            self.drive(self.http1.serve_connection(io, requests), &abort).await
        };
        if let Err(error) = ended {
            debug!(%peer, error = &error as &dyn std::error::Error, "connection ended early");
        }
    }

    /// Runs `connection` to its end, which shutdown brings nearer.
    async fn drive<C>(&self, connection: C, abort: &AbortHandle) -> hyper::Result<()>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.cut.cancelled() => {
                        abort.abort();
                        Ok(())
                    }
                }
            }
        };
        // A body that failed must not look like one that ended.
        if ended.as_ref().is_err_and(hyper::Error::is_user) {
            abort.abort();
        }
        ended
    }
}

/// The router as hyper sees it: each request learns whom it came from and how its answer may leave.
#[derive(Clone)]
struct Requests {
    router: Router,
    peer: SocketAddr,
    mappings: Arc<Mappings>,
}

impl hyper::service::Service<http::Request<Incoming>> for Requests {
    type Response = axum::response::Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(Arc::clone(&self.mappings));
        self.router.clone().call(request)
    }
}

#[cfg(test)]
mod tests;
