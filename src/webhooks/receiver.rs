//! One receiver: signs what it is told, and reads no more of its answer than the status.

use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Options, Secret};
use crate::metadata::WaitingNotice;
use crate::oci::EVENTS_TYPE;
use crate::upstream::{self, Clients, Kind, read_secret};

/// `t=UNIX SECONDS,v1=HEX`: the HMAC-SHA256 with the secret as key over `UNIX SECONDS`, a dot, and the body. The time is there
/// against replays: a receiver refuses what is older than some minutes.
const SIGNATURE: &str = "entrepot-signature";

/// Why a receiver was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It could not be asked.
    #[error("no answer")]
    NoAnswer(#[source] reqwest::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    /// It says no.
    #[error("it answers with status {0}")]
    Status(u16),
    /// There is nothing to sign with.
    #[error("the secret cannot be read")]
    Secret(#[source] std::io::Error),
    /// No client could be made.
    #[error("no client")]
    Client(#[source] Box<upstream::Error>),
}

impl Failure {
    /// Would the same be refused again, as far as the receiver says?
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(status) if *status >= 400 && *status < 500 && *status != 408 && *status != 429)
    }
}

/// The client of one receiver.
pub(super) struct Receiver(Clients);

impl Receiver {
    pub(super) fn new(options: &Options) -> Result<Self, upstream::Error> {
        Clients::to(options.name.clone(), &options.url, options.tls.clone(), options.route.clone(), options.timeout)
            .map(Self)
    }

    /// Sends these events in one request.
    pub(super) async fn tell(&self, options: &Options, events: &[WaitingNotice], now_ms: i64) -> Result<(), Failure> {
        let documents: Vec<&str> = events.iter().map(|event| event.document.as_str()).collect();
        let body = format!("{{\"events\":[{}]}}", documents.join(","));
        let client = self.0.for_url(&options.url, Kind::Metadata).map_err(|error| Failure::Client(Box::new(error)))?;
        let mut request = client.post(options.url.clone()).header(CONTENT_TYPE, EVENTS_TYPE);
        for (name, value) in &options.headers {
            request = request.header(name, value);
        }
        let secret = match &options.secret {
            None => None,
            Some(Secret::Written(secret)) => Some(secret.clone()),
            Some(Secret::File(file)) => Some(read_secret(file).await.map_err(Failure::Secret)?),
        };
        if let Some(secret) = secret {
            request = request.header(SIGNATURE, signature(&secret, now_ms / 1000, &body));
        }
        let answer = tokio::time::timeout(options.timeout, request.body(body).send()).await;
        let answer = answer.map_err(|_| Failure::TooSlow(options.timeout))?;
        // The URL may hold a token.
        let answer = answer.map_err(|error| Failure::NoAnswer(error.without_url()))?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(Failure::Status(status)),
        }
    }
}

/// Line ends after a secret in a file are not part of it.
fn signature(secret: &SecretString, unix_s: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().trim_end_matches(['\r', '\n']).as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{unix_s}.").as_bytes());
    context.update(body.as_bytes());
    let hex: Vec<String> = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={unix_s},v1={}", hex.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_another_implementation_makes() {
        // printf '1750000000.{}' | openssl dgst -sha256 -hmac hunter2
        let expected = "d2040b69b098945888744180fb67549aa0ad6037ca416a520f7d4b80f8e5d4e2";
        assert_eq!(signature(&"hunter2\n".into(), 1_750_000_000, "{}"), format!("t=1750000000,v1={expected}"));
    }

    #[test]
    fn only_what_would_be_refused_again_is_a_refusal() {
        let refusals: Vec<u16> = [400, 401, 404, 408, 410, 429, 500, 503, 302]
            .into_iter()
            .filter(|status| Failure::Status(*status).is_refusal())
            .collect();
        assert_eq!(refusals, [400, 401, 404, 410]);
        assert!(!Failure::TooSlow(Duration::ZERO).is_refusal());
    }
}
