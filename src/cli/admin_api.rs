//! A client of a running server's admin API, for the commands that ask it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::instance_url::InstanceUrl;
use super::pinned;

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
    /// Its certificate is not to be had, so nobody can tell whether it is the one.
    #[error("cannot read the certificate of the server, {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
}

/// Asks for a document of the API.
pub async fn get<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    let mut url: Url = server.as_url().clone();
    url.set_path(path);
    url.query_pairs_mut().extend_pairs(parameters);
    read(server, send(server, |client| client.get(url)).await?).await
}

/// Gives the API a document, and reads the one that comes back.
pub async fn post<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    document: &impl Serialize,
) -> Result<T, Failure> {
    let mut url: Url = server.as_url().clone();
    url.set_path(path);
    read(server, send(server, |client| client.post(url).json(document)).await?).await
}

/// Has the API delete something.
pub async fn delete(server: &InstanceUrl, path: &str) -> Result<(), Failure> {
    let mut url: Url = server.as_url().clone();
    url.set_path(path);
    send(server, |client| client.delete(url)).await.map(drop)
}

async fn read<T: DeserializeOwned>(server: &InstanceUrl, response: Response) -> Result<T, Failure> {
    let unreadable =
        |source: reqwest::Error| Failure::Answer { server: server.to_string(), source: source.without_url() };
    response.json().await.map_err(unreadable)
}

/// The answer to a request, if it is one that says yes.
async fn send(server: &InstanceUrl, request: impl FnOnce(&Client) -> RequestBuilder) -> Result<Response, Failure> {
    let named = || server.to_string();
    let no_server = |source: reqwest::Error| Failure::NoServer { server: named(), source: source.without_url() };
    let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
    // A proxy would not find this machine's own loopback, and is never let in.
    let client = client.no_proxy();
    let client = match server.certificate() {
        Some(file) => client.tls_backend_preconfigured(
            pinned::trust(file).map_err(|source| Failure::Certificate { path: file.to_owned(), source })?,
        ),
        None => client,
    };
    let client = client.build().map_err(no_server)?;
    let response = request(&client).send().await.map_err(|source| {
        if source.is_connect() {
            return no_server(source);
        }
        Failure::Answer { server: named(), source: source.without_url() }
    })?;
    let status = response.status();
    let unreadable = |source: reqwest::Error| Failure::Answer { server: named(), source: source.without_url() };
    if status.is_success() {
        return Ok(response);
    }
    let body: serde_json::Value = response.json().await.map_err(unreadable)?;
    let message = body["errors"][0]["message"].as_str().unwrap_or("it does not say why").to_owned();
    Err(Failure::Refused { server: named(), status: status.as_u16(), message })
}
