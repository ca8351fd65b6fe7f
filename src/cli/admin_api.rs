//! A client of a running server's admin API, for the commands that ask it.

use std::io;
use std::time::Duration;

use futures::{Stream, TryStreamExt as _, stream};
use http::Method;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncBufReadExt as _;
use tokio_util::io::StreamReader;
use url::Url;

use super::instance_url::InstanceUrl;

/// How long a connection may take: the server is near, or not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody listens there.
    #[error("no server answers at {server}")]
    NoServer {
        /// Where.
        server: String,
        /// What the connection says.
        source: reqwest::Error,
    },
    /// Something listens there that does not answer as entrepot does.
    #[error("{server} does not answer as entrepot does: is it one, and of this release?")]
    Answer {
        /// Where.
        server: String,
        /// What came instead.
        source: reqwest::Error,
    },
    /// It refuses.
    #[error("{server} refuses ({status}): {message}")]
    Refused {
        /// Where.
        server: String,
        /// The status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// Its answer broke off.
    #[error("the answer of {server} broke off")]
    Broken {
        /// Where.
        server: String,
        /// What the connection says.
        source: std::io::Error,
    },
}

/// Longest silence of an answer that comes line by line: the server says every second how far it has come, but for the
/// time that an upstream takes to answer.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// Asks for a document of the API.
pub async fn get<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    send(server, Method::GET, path, parameters).await
}

/// Has the API do something, and returns the document that says what came of it.
pub async fn send<T: DeserializeOwned>(
    server: &InstanceUrl,
    method: Method,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    let client = client().timeout(ANSWER_TIMEOUT);
    let response = ask(server, client, path, |client, mut url| {
        url.query_pairs_mut().extend_pairs(parameters);
        client.request(method, url)
    });
    response.await?.json().await.map_err(|source| unreadable(server, source))
}

/// Posts a document, and reads the answer line by line as it comes.
pub async fn post_for_lines<T: DeserializeOwned, B: Serialize>(
    server: &InstanceUrl,
    path: &str,
    body: &B,
) -> Result<impl Stream<Item = Result<T, Failure>> + use<T, B>, Failure> {
    let response =
        ask(server, client().read_timeout(SILENCE_MAX), path, |client, url| client.post(url).json(body)).await?;
    let bytes = response.bytes_stream().map_err(|source| io::Error::other(source.without_url()));
    let (lines, server) = (StreamReader::new(bytes).lines(), server.clone());
    Ok(stream::try_unfold((lines, server), |(mut lines, server)| async move {
        let broken = |source| Failure::Broken { server: server.to_string(), source };
        let Some(line) = lines.next_line().await.map_err(broken)? else { return Ok(None) };
        let value = serde_json::from_str(&line).map_err(|error| broken(io::Error::other(error)))?;
        Ok(Some((value, (lines, server))))
    }))
}

/// A proxy would not find this machine's own loopback, and is never let in.
fn client() -> ClientBuilder {
    Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy()
}

fn unreadable(server: &InstanceUrl, source: reqwest::Error) -> Failure {
    Failure::Answer { server: server.to_string(), source: source.without_url() }
}

/// The answer to a request, if it is a good one.
async fn ask(
    server: &InstanceUrl,
    client: ClientBuilder,
    path: &str,
    request: impl FnOnce(Client, Url) -> RequestBuilder,
) -> Result<Response, Failure> {
    let no_server =
        |source: reqwest::Error| Failure::NoServer { server: server.to_string(), source: source.without_url() };
    let mut url: Url = server.as_url().clone();
    url.set_path(path);
    let request = request(client.build().map_err(no_server)?, url);
    let response = request
        .send()
        .await
        .map_err(|source| if source.is_connect() { no_server(source) } else { unreadable(server, source) })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body: serde_json::Value = response.json().await.map_err(|source| unreadable(server, source))?;
    let message = body["errors"][0]["message"].as_str().unwrap_or("it does not say why").to_owned();
    Err(Failure::Refused { server: server.to_string(), status: status.as_u16(), message })
}
