//! The life of one connection: who it is, what it speaks, and its requests.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::TryFutureExt as _;
use futures::future::MapOk;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::deadline::Deadlines;
use super::stalls::{Stalls, Watched};
use super::{Answering, Answers, ServerOptions};
use crate::crowd::Crowd;
use crate::http::connection::{AbortHandle, Connection};
use crate::http::forwarded::{Client, contain};
use crate::http::opening::{self, ANSWER_TO_PLAIN, ANSWER_TO_TLS, Protocol};
use crate::http::request::Arrived;
use crate::http::sendfile::Mappings;
use crate::http::tls::{Accepted, PeerCertificate, Tls};

/// What is read of a request's body at a time (HTTP/1). hyper would let it grow to three times as much for each upload.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What of an answer waits in memory for its HTTP/2 client. The piece of a body that goes beyond it counts whole.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What connections are served with.
pub(super) struct Server {
    site: Arc<dyn Answers>,
    options: ServerOptions,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    crowd: Arc<Crowd>,
    /// No further request after this.
    shutdown: CancellationToken,
    /// No further byte after this.
    pub(super) cut: CancellationToken,
}

/// How the requests of a connection come in.
#[derive(Clone)]
struct Arrival {
    /// Where the connection comes from; none if only a proxy knows, which does not say.
    peer: Option<SocketAddr>,
    is_tls: bool,
    /// The client's; that of a trusted proxy says nothing about those whom it speaks for.
    certificate: Option<Arc<PeerCertificate>>,
    trusted_proxies: Arc<[ipnet::IpNet]>,
}

impl Server {
    pub(super) fn new(site: Arc<dyn Answers>, options: ServerOptions, shutdown: CancellationToken) -> Self {
        let mut http1 = http1::Builder::new();
        // Each connection has a timer of its own. `pipeline_flush` must stay off: it copies bodies into
        // memory.
        http1
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
            .max_pending_accept_reset_streams(options.resets_max)
            .max_header_list_size(options.header_bytes_max)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .initial_stream_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.connection_window_bytes);
        let crowd = Arc::new(Crowd::new(options.connections_per_client_max));
        Self { site, options, http1, http2, crowd, shutdown, cut: CancellationToken::new() }
    }

    /// A connection's whole life.
    pub(super) async fn welcome(&self, mut stream: TcpStream, peer: SocketAddr) {
        let Some((client, opening)) = self.introduced(&mut stream, peer).await else { return };
        let address = client.map(|client| client.ip()).filter(|address| !self.is_proxy(*address));
        let seat = address.map(|address| self.crowd.enter(address));
        if let Some(None) = seat {
            self.options.metrics.refused("http.connections_per_client_max");
            debug!(client = ?client, "the client has too many connections");
            return;
        }
        let first = opening::read(&mut stream, opening);
        let Some(Some((protocol, opening))) = self.in_time(first, peer).await else { return };
        let (answer, said) = match (protocol, &self.options.tls) {
            (Protocol::Tls, Some(tls)) => return self.secure(tls, stream, client, opening).await,
            (Protocol::Http1 | Protocol::Http2, None) => return self.plain(stream, client, protocol, opening).await,
            (Protocol::Tls, None) => (ANSWER_TO_TLS, "TLS hello on the plain port"),
            (Protocol::Http1 | Protocol::Http2, Some(_)) => (ANSWER_TO_PLAIN, "plain HTTP on the port with TLS"),
        };
        debug!(?client, "{said}");
        // The client may be gone; there is nothing more to tell it.
        let _ = timeout(self.options.write_timeout, opening::refuse(stream, answer)).await;
    }

    /// Whose the connection is, and what was read of it. `None` if nobody may say so, or it is not said.
    async fn introduced(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<(Option<SocketAddr>, BytesMut)> {
        if !self.options.is_introduced {
            return Some((Some(peer), BytesMut::new()));
        }
        if !self.is_proxy(peer.ip()) {
            self.options.metrics.refused("http.proxy_protocol");
            debug!(%peer, "a connection that comes from no proxy of http.trusted_proxies");
            return None;
        }
        let introduced = self.in_time(opening::introduced(stream), peer).await?;
        if introduced.is_none() {
            self.options.metrics.refused("http.proxy_protocol");
            debug!(%peer, "a connection that does not begin with the PROXY protocol");
        }
        introduced
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        contain(&self.options.trusted_proxies, address.to_canonical())
    }

    /// What a client says before its first request, within the time for a head.
    async fn in_time<T>(&self, reading: impl Future<Output = io::Result<T>>, peer: SocketAddr) -> Option<T> {
        let read = tokio::select! {
            read = timeout(self.options.header_timeout, reading) => read,
            () = self.shutdown.cancelled() => return None,
        };
        match read {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(error)) => debug!(%peer, %error, "connection ended before its first request"),
            Err(_) => {
                self.options.metrics.refused("http.header_timeout");
                debug!(%peer, "connection sent no request in time");
            }
        }
        None
    }

    async fn plain(&self, stream: TcpStream, peer: Option<SocketAddr>, protocol: Protocol, opening: Bytes) {
        let connection = self.connection(stream, opening);
        let (abort, mappings) = (connection.abort_handle(), Arc::clone(connection.mappings()));
        let arrival = self.arrival(peer, false, None);
        self.serve(connection, abort, protocol == Protocol::Http2, Some(mappings), arrival).await;
    }

    async fn secure(&self, tls: &Tls, stream: TcpStream, peer: Option<SocketAddr>, opening: Bytes) {
        let connection = self.connection(stream, opening);
        let abort = connection.abort_handle();
        let secured = tokio::select! {
            secured = tls.accept(connection) => secured,
            () = self.shutdown.cancelled() => return,
        };
        match secured {
            Ok(Accepted::Proven) => debug!(?peer, "a challenge of whoever issues our certificate is answered"),
            Ok(Accepted::Client(secured)) => {
                let arrival = self.arrival(peer, true, secured.certificate);
                // No mappings: what is encrypted has to pass through memory.
                self.serve(secured.stream, abort, secured.is_http2, None, arrival).await;
            }
            Err(failed) => debug!(?peer, error = &failed as &dyn std::error::Error, "no TLS with this client"),
        }
    }

    fn connection(&self, stream: TcpStream, opening: Bytes) -> Connection {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection is served with delayed small segments");
        }
        Connection::new(stream, opening, self.options.write_timeout)
    }

    fn arrival(&self, peer: Option<SocketAddr>, is_tls: bool, certificate: Option<PeerCertificate>) -> Arrival {
        let trusted_proxies = Arc::clone(&self.options.trusted_proxies);
        let certificate = certificate.filter(|_| !peer.is_some_and(|peer| self.is_proxy(peer.ip())));
        Arrival { peer, is_tls, certificate: certificate.map(Arc::new), trusted_proxies }
    }

    async fn serve(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        abort: AbortHandle,
        is_http2: bool,
        mappings: Option<Arc<Mappings>>,
        arrival: Arrival,
    ) {
        let peer = arrival.peer;
        let requests = Requests { site: self.site.of_connection(), arrival, mappings };
        let io = TokioIo::new(io);
        let ended = if is_http2 {
            let stalls = Stalls::new(self.options.write_timeout);
            let requests = Streams { requests, stalls: stalls.clone() };
            let driving = self.drive(self.http2.serve_connection(io, requests), &abort);
            tokio::select! {
                ended = driving => ended,
                () = stalls.found() => {
                    self.options.metrics.refused("http.write_timeout");
                    debug!(?peer, "the client takes no more of an answer");
                    abort.abort();
                    Ok(())
                }
            }
        } else {
            let http1 = self.http1.clone().timer(Deadlines::default()).serve_connection(io, requests);
            self.drive(http1, &abort).await
        };
        if let Err(error) = ended {
            if error.is_parse() {
                self.options.metrics.refused("malformed");
            } else if is_flood(&error) {
                self.options.metrics.refused("http2_flood");
            }
            debug!(?peer, error = &error as &dyn std::error::Error, "connection ended early");
        }
    }

    /// Runs `connection` to its end, which shutdown brings nearer.
    async fn drive<C>(&self, connection: C, abort: &AbortHandle) -> hyper::Result<()>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        // It is looked at with every request: the lock of the one token would be asked for by all connections.
        let shutdown = self.shutdown.child_token();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
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

/// Has the HTTP/2 library told the client to be calm: about requests taken back, or about heads without end?
fn is_flood(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.and_then(h2::Error::reason) == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

/// The site as hyper sees it: each request learns whom it came from and how its answer may leave.
#[derive(Clone)]
struct Requests {
    site: Arc<dyn Answers>,
    arrival: Arrival,
    /// What may leave by `sendfile`, where that is possible.
    mappings: Option<Arc<Mappings>>,
}

impl hyper::service::Service<http::Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: http::Request<Incoming>) -> Answering {
        let Arrival { peer, is_tls, certificate, trusted_proxies } = &self.arrival;
        let client = Client::of(peer.map(|peer| peer.ip()), *is_tls, request.headers(), trusted_proxies);
        let (certificate, mappings) = (certificate.clone(), self.mappings.clone());
        self.site.answer(request.map(Body::new), Arrived { client, certificate, mappings })
    }
}

/// The same for HTTP/2, where a client that takes nothing of one answer may still take others.
struct Streams {
    requests: Requests,
    stalls: Stalls,
}

impl hyper::service::Service<http::Request<Incoming>> for Streams {
    type Response = http::Response<Watched>;
    type Error = Infallible;
    type Future = MapOk<Answering, Box<dyn FnOnce(Response) -> http::Response<Watched> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let stalls = self.stalls.clone();
        self.requests.call(request).map_ok(Box::new(move |response| response.map(|body| stalls.watch(body))))
    }
}
