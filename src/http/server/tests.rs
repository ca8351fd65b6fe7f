#![expect(clippy::disallowed_methods, reason = "a test is its own client and makes its own files")]

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Mutex;

use axum::http::header::{CONTENT_LENGTH, RANGE};
use axum::response::IntoResponse as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::http::body::{Body, FileBody, Transport};
use crate::http::request::Arrived;
use crate::http::sample::{self, PATIENCE};
use crate::http::sendfile::Mappings;
use crate::registry::BlobReader;

mod limits;

const MIB: usize = 1 << 20;

/// A server of one blob at every path, and what its requests came with.
struct Site {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Served>,
    seen: Seen,
}

type Seen = Arc<Mutex<Vec<(IpAddr, Arc<Mappings>)>>>;

/// Answers as a test says, and notes what each request came with.
struct Scripted<A> {
    answer: Arc<A>,
    seen: Seen,
}

impl<A> Answers for Scripted<A>
where
    A: Fn(&Request) -> Response + Send + Sync + 'static,
{
    fn answer(&self, mut request: Request, arrived: Arrived) -> Answering {
        let Arrived { client, mappings, .. } = arrived.clone();
        request.extensions_mut().insert(arrived);
        self.seen.lock().unwrap().push((client.address.expect("the peer"), mappings.expect("the mappings")));
        Box::pin(std::future::ready(Ok((self.answer)(&request))))
    }

    fn of_connection(&self) -> Arc<dyn Answers> {
        Arc::new(Self { answer: Arc::clone(&self.answer), seen: Arc::clone(&self.seen) })
    }
}

impl Site {
    async fn of(blob: BlobReader) -> Self {
        Self::with(ServerOptions::default(), move |request| answer(&blob, request)).await
    }

    async fn with<A>(options: ServerOptions, answer: A) -> Self
    where
        A: Fn(&Request) -> Response + Send + Sync + 'static,
    {
        let seen = Seen::default();
        let answers = Scripted { answer: Arc::new(answer), seen: Arc::clone(&seen) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, answers, options, shutdown.clone()));
        Self { address, shutdown, serving, seen }
    }

    fn url(&self) -> String {
        format!("http://{}/blob", self.address)
    }

    fn mappings(&self) -> Arc<Mappings> {
        Arc::clone(&self.seen.lock().unwrap().last().expect("a request").1)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection on which the blob was asked for and the head of the answer was read.
    async fn ask(&self, request: &str) -> (TcpStream, String) {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let head = in_time(read_head(&mut client)).await;
        (client, head)
    }
}

const GET: &str = "GET /blob HTTP/1.1\r\nHost: entrepot\r\n\r\n";

fn answer(blob: &BlobReader, request: &Request) -> axum::response::Response {
    let transport = Transport::of(
        request.version(),
        request.extensions().get::<Arrived>().and_then(|arrived| arrived.mappings.clone()),
    );
    let range = request.headers().get(RANGE).map(|range| {
        let (start, last) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        start.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() + 1
    });
    let body = match range {
        Some(range) => FileBody::range(blob.clone(), range, transport),
        None => FileBody::whole(blob.clone(), transport),
    };
    Body::file(body).into_response()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("took too long")
}

async fn read_head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a complete head"));
    }
    String::from_utf8(head).unwrap()
}

async fn read_exactly(client: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    in_time(client.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Everything up to the end of the connection, however it ends.
async fn read_out(client: &mut TcpStream) -> (Vec<u8>, io::Result<usize>) {
    let mut bytes = Vec::new();
    let ended = in_time(client.read_to_end(&mut bytes)).await;
    (bytes, ended)
}

#[tokio::test]
async fn a_whole_blob_leaves_by_sendfile_alone() {
    let bytes = sample::bytes(21 * MIB + 17);
    let site = Site::of(sample::blob(&bytes)).await;
    let answer = reqwest::get(site.url()).await.unwrap();
    assert_eq!(answer.headers()[CONTENT_LENGTH], bytes.len().to_string());
    assert!(answer.bytes().await.unwrap() == bytes, "other bytes arrived");
    assert_eq!(site.mappings().carried_bytes(), bytes.len() as u64);
    assert_eq!(site.mappings().live(), 0);
}

#[tokio::test]
async fn requests_on_one_connection_share_its_mappings() {
    let bytes = sample::bytes(3 * MIB);
    let site = Site::of(sample::blob(&bytes)).await;
    let mut client = site.connect().await;
    let mut asked = 0;
    for (start, last) in (0..100).map(|i| (i * 7919, i * 15_013 + MIB)) {
        let request = format!("GET / HTTP/1.1\r\nHost: entrepot\r\nRange: bytes={start}-{last}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = in_time(read_head(&mut client)).await;
        assert!(head.contains(&format!("content-length: {}\r\n", last + 1 - start)), "{head}");
        assert!(read_exactly(&mut client, last + 1 - start).await == bytes[start..=last], "{start}-{last}");
        asked += (last + 1 - start) as u64;
    }
    let (peer, mappings) = site.seen.lock().unwrap()[0].clone();
    assert_eq!(peer, client.local_addr().unwrap().ip());
    assert!(site.seen.lock().unwrap().iter().all(|(_, others)| Arc::ptr_eq(others, &mappings)));
    assert!(mappings.carried_bytes() > asked * 9 / 10, "{} of {asked}", mappings.carried_bytes());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let bytes = sample::bytes(MIB);
    let site = Site::of(sample::blob(&bytes)).await;
    let (mut client, _) = site.ask(&GET.repeat(3)).await;
    assert!(read_exactly(&mut client, MIB).await == bytes);
    for _ in 0..2 {
        in_time(read_head(&mut client)).await;
        assert!(read_exactly(&mut client, MIB).await == bytes);
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_gets_the_same_bytes() {
    let bytes = sample::bytes(9 * MIB + 5);
    let site = Site::of(sample::blob(&bytes)).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let both = [client.get(site.url()).send(), client.get(site.url()).send()];
    for answer in futures::future::try_join_all(both).await.unwrap() {
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert!(answer.bytes().await.unwrap() == bytes, "other bytes arrived");
    }
    assert_eq!(site.mappings().carried_bytes(), 0);
}

#[tokio::test]
async fn head_sends_the_length_and_no_byte() {
    let site = Site::of(sample::blob(&sample::bytes(MIB))).await;
    let request = "HEAD / HTTP/1.1\r\nHost: entrepot\r\nConnection: close\r\n\r\n";
    let (mut client, head) = site.ask(request).await;
    assert!(head.contains(&format!("content-length: {MIB}\r\n")), "{head}");
    assert_eq!(read_out(&mut client).await.0, b"");
}

#[tokio::test]
async fn a_growing_blob_is_followed_to_its_end() {
    let bytes = sample::bytes(MIB);
    for size in [Some(MIB as u64), None] {
        let (fill, blob) = sample::fill(size);
        let site = Site::of(blob).await;
        let asking = tokio::spawn(reqwest::get(site.url()));
        fill.write(&bytes, 0);
        fill.publish(300_000);
        let mut answer = in_time(asking).await.unwrap().unwrap();
        assert_eq!(answer.content_length(), size);
        let mut received = Vec::new();
        while received.len() < 300_000 {
            received.extend_from_slice(&in_time(answer.chunk()).await.unwrap().expect("more"));
        }
        fill.verify(MIB);
        while let Some(chunk) = in_time(answer.chunk()).await.unwrap() {
            received.extend_from_slice(&chunk);
        }
        assert!(received == bytes, "other bytes arrived");
    }
}

#[tokio::test]
async fn a_failed_fill_never_looks_complete() {
    for size in [Some(MIB as u64), None] {
        for http2 in [false, true] {
            let (fill, blob) = sample::fill(size);
            let site = Site::of(blob).await;
            let client = reqwest::Client::builder();
            let client = if http2 { client.http2_prior_knowledge() } else { client.http1_only() }.build().unwrap();
            fill.write(&sample::bytes(MIB), 0);
            fill.publish(300_000);
            let mut answer = in_time(client.get(site.url()).send()).await.unwrap();
            in_time(answer.chunk()).await.unwrap().expect("the first bytes");
            fill.fail("the upstream went away");
            let ended = in_time(answer.bytes()).await;
            assert!(ended.is_err(), "size {size:?}, http2 {http2}: ended like a complete body");
        }
    }
}

#[tokio::test]
async fn a_failed_fill_resets_a_client_that_knows_neither_length_nor_chunks() {
    let (fill, blob) = sample::fill(None);
    let site = Site::of(blob).await;
    fill.write(b"the beginning", 0);
    fill.publish(13);
    let (mut client, _) = site.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(read_exactly(&mut client, 13).await, b"the beginning");
    drop(fill);
    let (_, ended) = read_out(&mut client).await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_leaves_frees_mapping_and_pin() {
    let (blob, dropped) = sample::pinned(sample::blob(&sample::bytes(64 * MIB)));
    let asked = Arc::new(Mutex::new(Some(blob)));
    let site = Site::with(ServerOptions::default(), move |request| {
        let blob = asked.lock().unwrap().take().expect("one request");
        answer(&blob, request)
    })
    .await;
    let (mut client, _) = site.ask(GET).await;
    read_exactly(&mut client, 1000).await;
    drop(client);
    sample::unpinned(dropped).await;
    assert_eq!(site.mappings().live(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_while_nothing_arrives_frees_the_pin() {
    let (fill, blob) = sample::fill(Some(MIB as u64));
    let (blob, dropped) = sample::pinned(blob);
    let asked = Arc::new(Mutex::new(Some(blob)));
    let site = Site::with(ServerOptions::default(), move |request| {
        let blob = asked.lock().unwrap().take().expect("one request");
        answer(&blob, request)
    })
    .await;
    let (client, _) = site.ask(GET).await;
    drop(client);
    sample::unpinned(dropped).await;
    drop(fill);
}

#[tokio::test]
async fn a_slow_reader_holds_one_mapping_at_a_time() {
    let bytes = sample::bytes(16 * MIB);
    let site = Site::of(sample::blob(&bytes)).await;
    let (mut client, _) = site.ask(GET).await;
    let mut received = Vec::new();
    while received.len() < bytes.len() {
        let mut few = [0; 4096];
        let read = in_time(client.read(&mut few)).await.unwrap();
        received.extend_from_slice(&few[..read]);
        assert!(site.mappings().live() <= 1);
    }
    assert!(received == bytes, "other bytes arrived");
}

#[tokio::test]
async fn an_unlinked_file_is_sent_to_its_end() {
    let bytes = sample::bytes(32 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    let file = Arc::new(File::open(&path).unwrap());
    let site = Site::of(BlobReader::whole(file, bytes.len() as u64)).await;
    let (mut client, _) = site.ask(GET).await;
    let mut received = read_exactly(&mut client, 1000).await;
    std::fs::remove_file(&path).unwrap();
    received.extend(read_exactly(&mut client, bytes.len() - 1000).await);
    assert!(received == bytes, "other bytes arrived");
}

#[tokio::test]
async fn a_file_shorter_than_its_blob_ends_the_connection() {
    let site = Site::of(BlobReader::whole(sample::file(&sample::bytes(MIB)), 2 * MIB as u64)).await;
    let (mut client, head) = site.ask(GET).await;
    assert!(head.contains(&format!("content-length: {}\r\n", 2 * MIB)), "{head}");
    assert!(read_out(&mut client).await.0.len() <= MIB);
}

/// Who is not accepted yet is not turned away either: a fleet begins to pull at once.
#[tokio::test]
async fn a_crowd_finds_room_before_it_is_accepted() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let clients = futures::future::join_all((0..400).map(|_| TcpStream::connect(address)));
    // A connection that finds no room is tried again by the kernel after one second at the earliest.
    let connected = tokio::time::timeout(Duration::from_millis(900), clients).await.expect("nobody has to try again");
    for client in connected {
        client.expect("nobody is turned away");
    }
    drop(listener);
}
