//! The registry asked from inside the process, without a port: by whoever holds the store, and by nobody else.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use super::forwarded::Client;
use super::request::Arrived;
use super::server::Answers as _;
use super::{AppOptions, AppState, Site, admin};
use crate::auth::Authority;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// Why a body ended before its end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A registry that answers requests as a server does.
#[derive(Debug)]
pub struct Inside(Site);

impl Inside {
    /// Whoever asks from inside may do what an operator may.
    pub fn new(registry: Arc<Registry>, authority: Arc<Authority>, metrics: Metrics, options: AppOptions) -> Self {
        let admin = admin::Door::new(vec![ipnet::Ipv4Net::from(Ipv4Addr::LOCALHOST).into()]);
        Self(Site::new(AppState::new(registry, authority, metrics, AppOptions { admin, ..options })))
    }

    /// Asks it.
    pub async fn ask<B>(&self, request: Request<B>) -> Response<UnsyncBoxBody<Bytes, BoxError>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = request.map(axum::body::Body::new);
        let client = Client { address: Some(Ipv4Addr::LOCALHOST.into()), ..Client::default() };
        let response = match self.0.answer(request, Arrived { client, ..Arrived::default() }).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        response.map(|body| body.map_err(BoxError::from).boxed_unsync())
    }
}
