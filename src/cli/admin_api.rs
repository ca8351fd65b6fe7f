//! A client of a running server's admin API, for the commands that ask it.

use std::time::Duration;

use reqwest::{Client, Method};
use serde::de::DeserializeOwned;
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
}

/// Asks for a document of the API.
pub async fn get<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    ask(Method::GET, server, path, parameters, Some(ANSWER_TIMEOUT)).await
}

/// Has the server do something, for as long as it takes.
pub async fn post<T: DeserializeOwned>(
    server: &InstanceUrl,
    path: &str,
    parameters: &[(&str, &str)],
) -> Result<T, Failure> {
    ask(Method::POST, server, path, parameters, None).await
}

async fn ask<T: DeserializeOwned>(
    method: Method,
    server: &InstanceUrl,
    path: &str,
    parameters: &[(&str, &str)],
    timeout: Option<Duration>,
) -> Result<T, Failure> {
    let named = || server.to_string();
    let no_server = |source: reqwest::Error| Failure::NoServer { server: named(), source: source.without_url() };
    let mut url: Url = server.as_url().clone();
    url.set_path(path);
    url.query_pairs_mut().extend_pairs(parameters);
    let mut client = Client::builder().connect_timeout(CONNECT_TIMEOUT);
    if let Some(timeout) = timeout {
        client = client.timeout(timeout);
    }
    // A proxy would not find this machine's own loopback, and is never let in.
    let client = client.no_proxy().build().map_err(no_server)?;
    let response = client.request(method, url).send().await.map_err(|source| {
        if source.is_connect() {
            return no_server(source);
        }
        Failure::Answer { server: named(), source: source.without_url() }
    })?;
    let status = response.status();
    let unreadable = |source: reqwest::Error| Failure::Answer { server: named(), source: source.without_url() };
    if status.is_success() {
        return response.json().await.map_err(unreadable);
    }
    let body: serde_json::Value = response.json().await.map_err(unreadable)?;
    let message = body["errors"][0]["message"].as_str().unwrap_or("it does not say why").to_owned();
    Err(Failure::Refused { server: named(), status: status.as_u16(), message })
}
