//! A receiver of webhooks that answers as it is told, and remembers what it was told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request.
#[derive(Clone, Debug)]
pub struct Told {
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What it was answered.
    pub status: u16,
}

pub struct Receiver {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    count: watch::Receiver<usize>,
    serving: JoinHandle<()>,
}

struct Script {
    next: VecDeque<u16>,
    otherwise: u16,
    location: Option<String>,
    told: Vec<Told>,
}

impl Told {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_str(&self.body).expect("an envelope is JSON");
        body["events"].as_array().expect("it has a list of events").clone()
    }
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let script = Script { next: VecDeque::new(), otherwise: 200, location: None, told: Vec::new() };
        let script = Arc::new(Mutex::new(script));
        let (counter, count) = watch::channel(0);
        let serving = tokio::spawn(serve(listener, Arc::clone(&script), Arc::new(counter)));
        Self { address, script, count, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers the next requests so.
    pub fn answer_next(&self, statuses: &[u16]) {
        self.script.lock().unwrap().next.extend(statuses);
    }

    /// Answers so what is not said otherwise.
    pub fn answer(&self, status: u16) {
        self.script.lock().unwrap().otherwise = status;
    }

    /// Sends whoever asks elsewhere.
    pub fn redirect(&self, location: &str) {
        self.script.lock().unwrap().location = Some(location.to_owned());
        self.answer(307);
    }

    /// All requests so far.
    pub fn told(&self) -> Vec<Told> {
        self.script.lock().unwrap().told.clone()
    }

    /// The events that it took, in the order in which they came.
    pub fn taken(&self) -> Vec<Value> {
        self.told().iter().filter(|told| told.status == 200).flat_map(Told::events).collect()
    }

    /// Waits until this is so.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let mut count = self.count.clone();
        let waiting = async {
            while !wanted(self) {
                count.changed().await.expect("it serves");
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
            "waited in vain until {what}: {:?}",
            self.told()
        );
    }

    pub async fn until_taken(&self, events: usize) {
        self.until("the events have come", |receiver| receiver.taken().len() >= events).await;
    }

    pub async fn until_told(&self, requests: usize) {
        self.until("the requests have come", |receiver| receiver.told().len() >= requests).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>, counter: Arc<watch::Sender<usize>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (script, counter) = (Arc::clone(&script), Arc::clone(&counter));
        // Ends with its connection.
        tokio::spawn(async move {
            let mut stream = stream;
            while let Some(mut told) = read(&mut stream).await {
                let answer = {
                    let mut script = script.lock().unwrap();
                    told.status = script.next.pop_front().unwrap_or(script.otherwise);
                    let location =
                        script.location.as_ref().map_or_else(String::new, |to| format!("location: {to}\r\n"));
                    let answer = format!("HTTP/1.1 {} so\r\n{location}content-length: 0\r\n\r\n", told.status);
                    script.told.push(told);
                    answer
                };
                counter.send_modify(|count| *count += 1);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// One request of known length; none at the end of the connection.
async fn read(stream: &mut TcpStream) -> Option<Told> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("a head is text");
    let headers: Vec<(String, String)> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("a length is a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Told { headers, body: String::from_utf8(body).expect("events are text"), status: 0 })
}
