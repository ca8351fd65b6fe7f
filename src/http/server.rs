//! The accept loop of the port; the life of each connection it accepts is in [`life`].
//!
//! ```text
//! accept (one permit each) ─ PROXY header? ─ a seat of its client ─ first bytes ─┬─ HTTP/1 ─────┐
//!                                                                                ├─ HTTP/2 ─────┼─ site  
//!                                                                                └─ TLS, h2 or ─┘
//! with TLS configured, what is not TLS is told so and closed; without, TLS is
//! shutdown: stop accepting ─ running requests end within the grace ─ the rest is reset
//! ```
//!
//! The protocol is told apart here and not by hyper-util's automatic builder: that one waits without limit for the
//! rest of a preface, and leaves most of a TLS hello unread, so that closing would reset the client before it reads
//! the answer.

mod deadline;
mod life;
mod stalls;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::request::Arrived;
use super::tls::Tls;
use crate::metrics::Metrics;
use life::Server;

/// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG_MAX: u32 = 4096;

/// Who answers the requests of a port.
pub trait Answers: Send + Sync + 'static {
    /// The answer to a request that came so.
    fn answer(&self, request: Request, arrived: Arrived) -> Answering;

    /// The same for the requests of one connection, which count their holders at a place of their own.
    fn of_connection(&self) -> Arc<dyn Answers>;
}

/// An answer on its way: there is one to every request.
pub type Answering = BoxFuture<'static, Result<Response, Infallible>>;

/// How the port serves, and its limits.
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
    /// Requests that an HTTP/2 client may take back before anybody has looked at them. With one more its connection ends.
    pub resets_max: usize,
    /// What a client may send on one stream before it must wait for us (HTTP/2).
    pub stream_window_bytes: u32,
    /// What a client may send on one connection before it must wait for us (HTTP/2).
    pub connection_window_bytes: u32,
    /// Silence after which an HTTP/2 client is pinged, and again how long it may take to answer.
    pub ping_interval: Duration,
    /// Connections of one client at a time; 0 for any number.
    pub connections_per_client_max: usize,
    /// Proxies whose word on who asks is taken.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Each connection comes from one of these and begins with the PROXY protocol.
    pub is_introduced: bool,
    /// What TLS is made with; without it the port is plain.
    pub tls: Option<Arc<Tls>>,
    /// Where refusals are counted.
    pub metrics: Metrics,
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
            resets_max: 20,
            stream_window_bytes: 1024 * 1024,
            connection_window_bytes: 8 * 1024 * 1024,
            ping_interval: Duration::from_secs(20),
            connections_per_client_max: 1000,
            trusted_proxies: Arc::default(),
            is_introduced: false,
            tls: None,
            metrics: Metrics::new(),
        }
    }
}

impl ServerOptions {
    /// The limits that are fixed, for whoever looks at the metrics; `config` has the others.
    fn report(&self) {
        for (limit, value) in [
            ("http.header_bytes_max", u64::from(self.header_bytes_max)),
            ("http.headers_max", self.headers_max as u64),
            ("http2.streams_max", self.streams_max.into()),
            ("http2.resets_max", self.resets_max as u64),
            ("http2.stream_window_bytes", self.stream_window_bytes.into()),
            ("http2.connection_window_bytes", self.connection_window_bytes.into()),
        ] {
            self.metrics.limit(limit, value);
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Connections that were still busy when the grace was over, and were reset.
    pub connections_cut: usize,
}

/// Serves `site` on `listener` until `shutdown` is cancelled and every connection has ended.
pub async fn serve(
    listener: TcpListener,
    site: impl Answers,
    options: ServerOptions,
    shutdown: CancellationToken,
) -> Served {
    options.report();
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let connections = TaskTracker::new();
    let shutdown_grace = options.shutdown_grace;
    let server = Arc::new(Server::new(Arc::new(site), options, shutdown.clone()));

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

#[cfg(test)]
mod tests;
