//! The way commands reach a registry: a running server over HTTP, or the store where none runs, by the same requests.

use std::io::Read;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use serde::de::DeserializeOwned;

use super::admin_api;
use super::instance_url::InstanceUrl;
use super::reach::Reach;
use super::unserved::Unserved;
use crate::config::Config;
use crate::http::BoxError;
use crate::oci::{Digest, RepositoryName};
use crate::storage::Store;

/// Bytes of an upload read at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// Pieces of an upload that wait to be sent.
const PIECES_MAX: usize = 4;

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// What a request is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What is stored alone.
    Stored,
    /// Whatever a pull is answered from.
    Anywhere,
}

/// A registry that can be asked.
pub enum Door {
    /// A running server.
    Server { client: reqwest::Client, server: InstanceUrl },
    /// The store of none.
    Store(Box<Unserved>),
}

impl Door {
    /// The server that was named; else the one that should listen here; else the store, if it may be made or is there.
    pub async fn open(config: &Config, reach: &Reach, may_create: bool) -> anyhow::Result<Self> {
        let server = reach.server(config)?;
        let client = admin_api::client(&server)?.build()?;
        let probe = client.get(format!("{}/v2/", server.origin())).send().await;
        match probe {
            Ok(_) => Ok(Self::Server { client, server }),
            Err(error) if reach.is_named() || !error.is_connect() => {
                Err(anyhow!(error.without_url())).with_context(|| format!("no server answers at {server}"))
            }
            Err(_) => {
                let path = &config.storage.path;
                if !may_create && Store::index_at(path).is_none() {
                    bail!("no server answers at {server}, and there is no store at {} (storage.path)", path.display());
                }
                let store = Unserved::open(config).await;
                let store = store.with_context(|| format!("no server answers at {server}, and its store"))?;
                Ok(Self::Store(Box::new(store)))
            }
        }
    }

    /// The store, where no server runs.
    pub fn store(&self) -> Option<&Unserved> {
        match self {
            Self::Server { .. } => None,
            Self::Store(store) => Some(store),
        }
    }

    /// Ends it in good order.
    pub async fn close(self) {
        if let Self::Store(store) = self {
            store.close().await;
        }
    }

    /// Sends a request. Any status is an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: reqwest::Body,
    ) -> anyhow::Result<Response<AnswerBody>> {
        let mut request = Request::builder().method(method).uri(path).body(body)?;
        *request.headers_mut() = headers;
        match self {
            Self::Server { client, server } => {
                *request.uri_mut() = format!("{}{path}", server.origin()).parse()?;
                let answer = client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url);
                let answer = answer.with_context(|| format!("asking {server}"))?;
                Ok(Response::<reqwest::Body>::from(answer).map(|body| body.map_err(BoxError::from).boxed_unsync()))
            }
            Self::Store(store) => Ok(store.inside().ask(request).await),
        }
    }

    /// GET or HEAD.
    pub async fn get(
        &self,
        method: Method,
        path: &str,
        from: From,
        mut headers: HeaderMap,
    ) -> anyhow::Result<Response<AnswerBody>> {
        if from == From::Stored {
            headers.insert(CACHE_CONTROL, "only-if-cached".parse()?);
        }
        self.send(method, path, headers, reqwest::Body::default()).await
    }

    /// A document, or the reason why there is none.
    pub async fn json<T: DeserializeOwned>(&self, path: &str, from: From) -> anyhow::Result<T> {
        self.page(path, from).await.map(|(document, _)| document)
    }

    /// A page of a list, and where the next one is.
    pub async fn page<T: DeserializeOwned>(&self, path: &str, from: From) -> anyhow::Result<(T, Option<String>)> {
        let answer = accepted(self.get(Method::GET, path, from, HeaderMap::new()).await?).await?;
        let next = answer.headers().get(LINK).and_then(|link| link.to_str().ok());
        let next = next.and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
        let bytes = collected(answer.into_body()).await?;
        Ok((serde_json::from_slice(&bytes).with_context(|| format!("reading the answer to {path}"))?, next))
    }

    /// Is the blob stored, and may this repository show it?
    pub async fn has_blob(&self, name: &RepositoryName, digest: &Digest) -> anyhow::Result<bool> {
        let path = format!("/v2/{name}/blobs/{digest}");
        Ok(self.get(Method::HEAD, &path, From::Stored, HeaderMap::new()).await?.status().is_success())
    }

    /// Sends what `reader` gives, which is exactly `length_bytes`, and waits for the answer.
    pub async fn upload(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        length_bytes: u64,
        reader: &mut dyn Read,
    ) -> anyhow::Result<()> {
        let (mut pieces, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES_MAX);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, length_bytes.into());
        headers.insert(CONTENT_TYPE, media_type.parse()?);
        let sending = self.send(method, path, headers, reqwest::Body::wrap_stream(body));
        let feeding = async move {
            loop {
                let mut piece = Vec::new();
                let read = (&mut *reader).take(PIECE_BYTES).read_to_end(&mut piece);
                let is_end = read.as_ref().is_ok_and(|n| *n == 0);
                let failed = read.as_ref().err().map(ToString::to_string);
                // Whoever answers before all is sent has answered; what it says is looked at below.
                if is_end || pieces.send(read.map(|_| piece.into())).await.is_err() {
                    return Ok(());
                }
                if let Some(failed) = failed {
                    return Err(anyhow!(failed));
                }
            }
        };
        let mut sending = std::pin::pin!(sending);
        let answer = tokio::select! {
            biased;
            answer = &mut sending => answer,
            fed = feeding => {
                fed?;
                sending.await
            }
        };
        accepted(answer?).await.map(drop)
    }
}

/// All of a short body.
pub async fn collected(body: AnswerBody) -> anyhow::Result<Bytes> {
    Ok(body.collect().await.map_err(|error| anyhow!(error))?.to_bytes())
}

/// The pieces of a body.
pub fn pieces(body: AnswerBody) -> impl futures::Stream<Item = anyhow::Result<Bytes>> + Unpin {
    body.into_data_stream().map(|piece| piece.map_err(|error| anyhow!(error)))
}

/// The answer if it is a success, else what it says.
pub async fn accepted(answer: Response<AnswerBody>) -> anyhow::Result<Response<AnswerBody>> {
    let status = answer.status().as_u16();
    if answer.status().is_success() {
        return Ok(answer);
    }
    let body: serde_json::Value = serde_json::from_slice(&collected(answer.into_body()).await?).unwrap_or_default();
    let message = body["errors"][0]["message"].as_str().unwrap_or("it does not say why");
    bail!("refused ({status}): {message}{}", admin_api::way_out(status))
}
