//! From the section `webhooks` to who is told what.

use anyhow::Context as _;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;

use super::serve::globs;
use super::upstreams::{route, tls};
use crate::config::{self, Config, WebhookEvent};
use crate::metadata::{Metadata, Subscription};
use crate::metrics::Metrics;
use crate::oci::{EventKind, EventSource};
use crate::webhooks::{Options, Secret};

/// From now on events are queued for whoever is configured.
pub(super) async fn subscribe(config: &Config, metadata: &Metadata) -> anyhow::Result<()> {
    let subscription = |webhook: &config::Webhook| {
        Ok(Subscription {
            name: webhook.name.clone(),
            events: webhook.events.iter().copied().map(kind).collect(),
            repositories: globs(&webhook.repositories)?,
            queue_max: webhook.queue_max,
        })
    };
    let subscriptions = config.webhooks.iter().map(subscription).collect::<anyhow::Result<_>>()?;
    let instance_id = uuid::Uuid::new_v4().to_string();
    let source = EventSource { addr: config.http.listen.to_string(), instance_id };
    Ok(metadata.subscribe(subscriptions, source).await?)
}

/// How they are told.
pub(super) fn options(config: &Config, metrics: &Metrics) -> anyhow::Result<Vec<Options>> {
    config.webhooks.iter().map(|webhook| one(webhook, metrics)).collect()
}

fn one(webhook: &config::Webhook, metrics: &Metrics) -> anyhow::Result<Options> {
    metrics.webhook_limit(&webhook.name, webhook.queue_max);
    let header = |(name, value): &(String, config::HeaderValue)| {
        let mut value = HeaderValue::try_from(value.0.expose_secret())?;
        value.set_sensitive(true);
        Ok((HeaderName::try_from(name)?, value))
    };
    let headers: anyhow::Result<Vec<_>> = webhook.headers.iter().map(header).collect();
    Ok(Options {
        name: webhook.name.parse()?,
        url: webhook.url.0.clone(),
        secret: webhook.secret.as_ref().map(|secret| match secret {
            config::Secret::Written(secret) => Secret::Written(secret.clone()),
            config::Secret::File(file) => Secret::File(file.clone()),
        }),
        headers: headers.with_context(|| format!("the headers of webhooks.{}", webhook.name))?,
        timeout: webhook.timeout,
        retry_wait: webhook.retry_wait,
        retry_wait_max: webhook.retry_wait_max,
        expire_after: webhook.expire_after,
        tls: tls(&webhook.tls),
        route: route(&webhook.route),
    })
}

const fn kind(event: WebhookEvent) -> EventKind {
    match event {
        WebhookEvent::Push => EventKind::Push,
        WebhookEvent::Pull => EventKind::Pull,
        WebhookEvent::Delete => EventKind::Delete,
        WebhookEvent::Evict => EventKind::Evict,
    }
}
