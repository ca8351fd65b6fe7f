//! A client of a running server's admin API, for the commands that ask it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::{Stream, TryStreamExt as _, stream};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncBufReadExt as _;
use tokio_util::io::StreamReader;
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
    #[error("{server} refuses ({status}): {message}{}", way_out(*status))]
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
    let response = ask(server, client(server)?.timeout(ANSWER_TIMEOUT), path, |client, mut url| {
        url.query_pairs_mut().extend_pairs(parameters);
        client.request(method, url)
    });
    read(server, response.await?).await
}

/// As [`send`], for as long as it takes.
pub async fn send_patiently<T: DeserializeOwned>(
    server: &InstanceUrl,
    method: Method,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    let response = ask(server, client(server)?, path, |client, mut url| {
        url.query_pairs_mut().extend_pairs(parameters);
        client.request(method, url)
    });
    read(server, response.await?).await
}

/// Gives the API a document, and reads the one that comes back.
pub async fn post<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    document: &impl Serialize,
) -> Result<T, Failure> {
    let client = client(server)?.timeout(ANSWER_TIMEOUT);
    read(server, ask(server, client, path, |client, url| client.post(url).json(document)).await?).await
}

/// Has the API delete something.
pub async fn delete(server: &InstanceUrl, path: &str) -> Result<(), Failure> {
    let client = client(server)?.timeout(ANSWER_TIMEOUT);
    ask(server, client, path, |client, url| client.delete(url)).await.map(drop)
}

/// Posts a document, and reads the answer line by line as it comes.
pub async fn post_for_lines<T: DeserializeOwned, B: Serialize>(
    server: &InstanceUrl,
    path: &str,
    body: &B,
) -> Result<impl Stream<Item = Result<T, Failure>> + use<T, B>, Failure> {
    let client = client(server)?.read_timeout(SILENCE_MAX);
    let response = ask(server, client, path, |client, url| client.post(url).json(body)).await?;
    let bytes = response.bytes_stream().map_err(|source| io::Error::other(source.without_url()));
    let (lines, server) = (StreamReader::new(bytes).lines(), server.clone());
    Ok(stream::try_unfold((lines, server), |(mut lines, server)| async move {
        let broken = |source| Failure::Broken { server: server.to_string(), source };
        let Some(line) = lines.next_line().await.map_err(broken)? else { return Ok(None) };
        let value = serde_json::from_str(&line).map_err(|error| broken(io::Error::other(error)))?;
        Ok(Some((value, (lines, server))))
    }))
}

/// What speaks to a server of ours. A proxy would not find this machine's own loopback, and is never let in.
pub(super) fn client(server: &InstanceUrl) -> Result<ClientBuilder, Failure> {
    let who = server.login().map(|login| (AUTHORIZATION, login.clone()));
    let headers = HeaderMap::from_iter(who);
    let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).no_proxy().default_headers(headers);
    let Some(file) = server.certificate() else { return Ok(client) };
    let trusted = pinned::trust(file).map_err(|source| Failure::Certificate { path: file.to_owned(), source })?;
    Ok(client.tls_backend_preconfigured(trusted))
}

async fn read<T: DeserializeOwned>(server: &InstanceUrl, response: Response) -> Result<T, Failure> {
    response.json().await.map_err(|source| unreadable(server, source))
}

fn unreadable(server: &InstanceUrl, source: reqwest::Error) -> Failure {
    Failure::Answer { server: server.to_string(), source: source.without_url() }
}

/// What the person at the command line can do about a refusal.
pub(super) const fn way_out(status: u16) -> &'static str {
    match status {
        401 => " (say who you are with --login-file)",
        _ => "",
    }
}

/// The answer to a request, if it is one that says yes.
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
