//! Every metric, declared once; labels come from `as_str()` of the enums, so log, header and metric use the same words.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Recorder as _, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::near::{ALWAYS, Near};

/// The metrics of one server. Handles are made seldom: recording is an atomic addition.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    /// What each thread has counted with.
    ended: Arc<Near<Ended, Arc<Counted>>>,
    /// Fills running now.
    pub fills_in_flight: Gauge,
    /// Bytes received from upstreams by fills.
    pub fill_bytes: Counter,
    /// Bytes of cached blobs removed to make room.
    pub evicted_bytes: Counter,
    /// Cached blobs removed to make room.
    pub evicted_blobs: Counter,
    /// Blobs compared with their digests by the scrub.
    pub scrubbed_blobs: Counter,
    /// Bytes of them.
    pub scrubbed_bytes: Counter,
    /// Connections open now.
    pub connections: Gauge,
    /// Log lines that the log's reader was too slow for.
    pub log_lines_dropped: Counter,
    /// Seconds from a request's head to the last byte of its answer.
    pub request_seconds: Histogram,
}

/// The labels of a request that ended: action, outcome, status if there was one. There are as many as the enums have
/// words.
type Ended = (&'static str, &'static str, Option<u16>);

/// Combinations of labels that each thread has at hand.
const ENDED_MAX: usize = 512;

/// What is counted of requests with the same labels.
struct Counted {
    requests: Counter,
    sent_bytes: Counter,
}

/// A label and its value.
type Label = (&'static str, String);

impl Metrics {
    /// A fresh set, all at zero.
    pub fn new() -> Self {
        let seconds = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .expect("the list of buckets is not empty")
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        let (
            fills_in_flight,
            fill_bytes,
            evicted_bytes,
            evicted_blobs,
            scrubbed_blobs,
            scrubbed_bytes,
            connections,
            log_lines_dropped,
            request_seconds,
        ) = with_local_recorder(&recorder, || {
            (
                metrics::gauge!("entrepot_fills_in_flight"),
                metrics::counter!("entrepot_fill_bytes_total"),
                metrics::counter!("entrepot_evicted_bytes_total"),
                metrics::counter!("entrepot_evicted_blobs_total"),
                metrics::counter!("entrepot_scrubbed_blobs_total"),
                metrics::counter!("entrepot_scrubbed_bytes_total"),
                metrics::gauge!("entrepot_connections"),
                metrics::counter!("entrepot_log_lines_dropped_total"),
                metrics::histogram!("entrepot_request_seconds"),
            )
        });
        fills_in_flight.set(0.0);
        connections.set(0.0);
        let recorder = Arc::new(recorder);
        Self {
            recorder,
            handle,
            ended: Arc::new(Near::of_each(ENDED_MAX)),
            fills_in_flight,
            fill_bytes,
            evicted_bytes,
            evicted_blobs,
            scrubbed_blobs,
            scrubbed_bytes,
            connections,
            log_lines_dropped,
            request_seconds,
        }
    }

    /// A request to `/v2/` or `/api/` ended; `None` if its client left before there was an answer.
    pub fn request(&self, action: &'static str, outcome: &'static str, status: Option<u16>, sent_bytes: u64) {
        let ended = (action, outcome, status);
        let counted = self.ended.get(&ended, ALWAYS).unwrap_or_else(|| {
            let counted = Arc::new(self.counted(ended));
            self.ended.put(ended, Arc::clone(&counted), ALWAYS);
            counted
        });
        counted.requests.increment(1);
        counted.sent_bytes.increment(sent_bytes);
    }

    fn counted(&self, (action, outcome, status): Ended) -> Counted {
        let labels = || vec![("action", action.into()), ("outcome", outcome.into())];
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let with_status = [labels(), vec![("status", status)]].concat();
        Counted {
            requests: self.recorder.register_counter(&key("entrepot_requests_total", with_status), &METADATA),
            sent_bytes: self.recorder.register_counter(&key("entrepot_sent_bytes_total", labels()), &METADATA),
        }
    }

    /// A fill ended: `committed`, `failed`, `mismatch`, `bypass`.
    pub fn fill_ended(&self, upstream: &str, result: &'static str) {
        self.count("entrepot_fills_total", vec![("upstream", upstream.into()), ("result", result.into())], 1);
    }

    /// An upstream was asked: `operation` as the upstream room calls it, `result` its error's kind or `ok`.
    pub fn upstream_asked(&self, upstream: &str, operation: &'static str, result: &'static str, took: Duration) {
        let labels = vec![("upstream", upstream.into()), ("operation", operation.into()), ("result", result.into())];
        self.count("entrepot_upstream_requests_total", labels, 1);
        let key = key("entrepot_upstream_request_seconds", vec![("upstream", upstream.into())]);
        self.recorder.register_histogram(&key, &METADATA).record(took.as_secs_f64());
    }

    /// An issuer of tokens was asked for its keys: `ok`, `unreachable`, `timed_out`, `status`, `invalid`.
    pub fn issuer_asked(&self, provider: &str, result: &'static str) {
        self.count("entrepot_issuer_requests_total", vec![("provider", provider.into()), ("result", result.into())], 1);
    }

    /// What an upstream says is left of its rate limit, by account.
    pub fn rate_limit(&self, upstream: &str, account: usize, remaining: u64, limit: Option<u64>) {
        let labels = || vec![("upstream", upstream.into()), ("account", account.to_string())];
        self.gauge("entrepot_upstream_ratelimit_remaining", labels(), remaining);
        if let Some(limit) = limit {
            self.gauge("entrepot_upstream_ratelimit_limit", labels(), limit);
        }
    }

    /// Transfers of blobs from an upstream, and how many wait for their turn.
    pub fn transfers(&self, upstream: &str, running: usize, waiting: usize) {
        for (state, number) in [("running", running), ("waiting", waiting)] {
            let labels = vec![("upstream", upstream.into()), ("state", state.into())];
            self.gauge("entrepot_transfers", labels, number as u64);
        }
    }

    /// A transfer of a blob got its turn.
    pub fn transfer_waited(&self, upstream: &str, priority: &'static str, waited: Duration) {
        let labels = vec![("upstream", upstream.into()), ("priority", priority.into())];
        let key = key("entrepot_transfer_wait_seconds", labels);
        self.recorder.register_histogram(&key, &METADATA).record(waited.as_secs_f64());
    }

    /// A blob was fetched before anybody asked for it: `committed` or `failed`.
    pub fn prefetched(&self, upstream: &str, result: &'static str) {
        self.count("entrepot_prefetched_total", vec![("upstream", upstream.into()), ("result", result.into())], 1);
    }

    /// An answer was given although the upstream could not confirm it.
    pub fn served_stale(&self, upstream: &str, reason: &'static str) {
        self.count("entrepot_stale_total", vec![("upstream", upstream.into()), ("reason", reason.into())], 1);
    }

    /// A tag in demand was confirmed before its time was up: `result` is `ok` or the error's kind.
    pub fn refreshed_ahead(&self, upstream: &str, result: &'static str) {
        let labels = vec![("upstream", upstream.into()), ("result", result.into())];
        self.count("entrepot_refreshed_ahead_total", labels, 1);
    }

    /// A stored blob was found damaged: `content` is `cached` or `pushed`, `finding` what is wrong with it.
    pub fn damaged(&self, content: &'static str, finding: &'static str) {
        self.count("entrepot_damaged_blobs_total", vec![("content", content.into()), ("finding", finding.into())], 1);
    }

    /// Pushed blobs that are lost.
    pub fn lost_blobs(&self, blobs: u64) {
        self.gauge("entrepot_lost_blobs", vec![], blobs);
    }

    /// How the queue of a webhook is: events that wait, and those that it had no room for.
    pub fn webhook_queue(&self, webhook: &str, waiting: u64, overflowed: u64) {
        self.gauge("entrepot_webhook_waiting", vec![("webhook", webhook.into())], waiting);
        let labels = vec![("webhook", webhook.into()), ("result", "overflowed".into())];
        self.recorder.register_counter(&key("entrepot_webhook_events_total", labels), &METADATA).absolute(overflowed);
    }

    /// Events left the queue of a webhook: `delivered`, `refused` or `expired`.
    pub fn webhook_events(&self, webhook: &str, result: &'static str, events: u64) {
        let labels = vec![("webhook", webhook.into()), ("result", result.into())];
        self.count("entrepot_webhook_events_total", labels, events);
    }

    /// Events that may wait for a webhook.
    pub fn webhook_limit(&self, webhook: &str, queue_max: u64) {
        let labels = vec![("limit", "webhooks.queue_max".into()), ("webhook", webhook.into())];
        self.gauge("entrepot_limit", labels, queue_max);
    }

    /// A webhook could not be told and will be tried again.
    pub fn webhook_failed(&self, webhook: &str) {
        self.count("entrepot_webhook_failures_total", vec![("webhook", webhook.into())], 1);
    }

    /// Events that the audit log lacks, since the start.
    pub fn audit_lost(&self, events: u64) {
        self.recorder.register_counter(&key("entrepot_audit_events_lost_total", vec![]), &METADATA).absolute(events);
    }

    /// Bytes on disk by what they are for (`cached`, `pushed`, `filling`, …) and the limits over them.
    pub fn space(&self, kind: &'static str, bytes: u64) {
        self.gauge("entrepot_store_bytes", vec![("kind", kind.into())], bytes);
    }

    /// When the certificate of the port ends, in Unix seconds.
    pub fn tls_certificate_ends(&self, not_after_s: i64) {
        let seconds = u64::try_from(not_after_s).unwrap_or(0);
        self.gauge("entrepot_tls_certificate_ends_timestamp_seconds", vec![], seconds);
    }

    /// The files of the certificate were read anew: `ok` or `failed`.
    pub fn tls_reloaded(&self, result: &'static str) {
        self.count("entrepot_tls_reloads_total", vec![("result", result.into())], 1);
    }

    /// A certificate was asked for: `issued`, or why it was not.
    pub fn acme_attempt(&self, result: &'static str) {
        self.count("entrepot_acme_attempts_total", vec![("result", result.into())], 1);
    }

    /// When a certificate is asked for next, in Unix seconds.
    pub fn acme_next(&self, next_s: i64) {
        let seconds = u64::try_from(next_s).unwrap_or(0);
        self.gauge("entrepot_acme_next_attempt_timestamp_seconds", vec![], seconds);
    }

    /// A TLS handshake ended.
    pub fn tls_handshake(&self, result: &'static str) {
        self.count("entrepot_tls_handshakes_total", vec![("result", result.into())], 1);
    }

    /// Something was refused because it went beyond the named limit.
    pub fn refused(&self, limit: &'static str) {
        self.count("entrepot_refused_total", vec![("limit", limit.into())], 1);
    }

    /// What is held under a quota, and its bound.
    pub fn quota(&self, quota: &str, held_bytes: u64, max_bytes: u64) {
        self.gauge("entrepot_quota_bytes", vec![("quota", quota.into())], held_bytes);
        self.gauge("entrepot_quota_max_bytes", vec![("quota", quota.into())], max_bytes);
    }

    /// What pinned blobs of the cache take: part of what is cached.
    pub fn space_pinned(&self, bytes: u64) {
        self.gauge("entrepot_pinned_bytes", vec![], bytes);
    }

    /// What is promised to fills and uploads and the file system has not given out yet.
    pub fn space_unwritten(&self, bytes: u64) {
        self.gauge("entrepot_unwritten_bytes", vec![], bytes);
    }

    /// A named limit, so that a graph can show it beside what it limits.
    pub fn limit(&self, limit: &'static str, value: u64) {
        self.gauge("entrepot_limit", vec![("limit", limit.into())], value);
    }

    /// As [`Metrics::limit`], for one on time, in seconds.
    pub fn limit_seconds(&self, limit: &'static str, value: Duration) {
        let key = key("entrepot_limit", vec![("limit", limit.into())]);
        self.recorder.register_gauge(&key, &METADATA).set(value.as_secs_f64());
    }

    /// As [`Metrics::limit`], for one that each upstream has.
    pub fn upstream_limit(&self, upstream: &str, limit: &'static str, value: u64) {
        self.gauge("entrepot_limit", vec![("limit", limit.into()), ("upstream", upstream.into())], value);
    }

    /// Bytes that had come waited for their turn under `bandwidth_max`.
    pub fn bandwidth_waited(&self, upstream: &str, priority: &'static str, waited: Duration) {
        let labels = vec![("upstream", upstream.into()), ("priority", priority.into())];
        let key = key("entrepot_bandwidth_wait_seconds", labels);
        self.recorder.register_histogram(&key, &METADATA).record(waited.as_secs_f64());
    }

    /// A sweep ended: entries of the review queue looked at, and what was removed.
    pub fn swept(&self, reviewed: u64, manifests: u64, blobs: u64, freed_bytes: u64) {
        self.count("entrepot_sweep_reviewed_total", vec![], reviewed);
        for (kind, number) in [("manifest", manifests), ("blob", blobs)] {
            self.count("entrepot_sweep_deleted_total", vec![("kind", kind.into())], number);
        }
        self.count("entrepot_sweep_freed_bytes_total", vec![], freed_bytes);
    }

    /// How long the review queue is, and for how long its first entry has been in it.
    pub fn sweep_queue(&self, entries: u64, oldest: Duration) {
        self.gauge("entrepot_sweep_queue", vec![], entries);
        self.gauge("entrepot_sweep_oldest_seconds", vec![], oldest.as_secs());
    }

    /// Bytes of the lists of upstreams that are kept.
    pub fn lists_bytes(&self, bytes: u64) {
        self.gauge("entrepot_lists_bytes", vec![], bytes);
    }

    /// An upstream's list has more entries than are kept.
    pub fn list_too_long(&self, upstream: &str) {
        self.count("entrepot_lists_too_long_total", vec![("upstream", upstream.into())], 1);
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        with_local_recorder(&*self.recorder, || metrics_process::Collector::default().collect());
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn count(&self, name: &'static str, labels: Vec<Label>, by: u64) {
        self.recorder.register_counter(&key(name, labels), &METADATA).increment(by);
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>, value: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; disks are smaller than 2^53 bytes")]
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value as f64);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

static METADATA: metrics::Metadata<'static> =
    metrics::Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));

fn key(name: &'static str, labels: Vec<Label>) -> metrics::Key {
    let labels: Vec<metrics::Label> = labels.into_iter().map(|(key, value)| metrics::Label::new(key, value)).collect();
    metrics::Key::from_parts(name, labels)
}

fn describe() {
    metrics::describe_counter!("entrepot_requests_total", "Requests to /v2/ and /api/, by action, outcome and status.");
    metrics::describe_counter!("entrepot_sent_bytes_total", "Bytes of bodies sent, by action and outcome.");
    metrics::describe_histogram!("entrepot_request_seconds", "From a request's head to the last byte of its answer.");
    metrics::describe_gauge!("entrepot_connections", "Client connections open now.");
    metrics::describe_gauge!("entrepot_fills_in_flight", "Blobs being fetched from upstreams now.");
    metrics::describe_counter!("entrepot_fills_total", "Blobs fetched, by upstream and result.");
    metrics::describe_counter!("entrepot_fill_bytes_total", "Bytes of blobs received from upstreams.");
    metrics::describe_counter!("entrepot_prefetched_total", "Blobs fetched before anybody asked for them, by result.");
    metrics::describe_gauge!("entrepot_transfers", "Transfers of blobs from an upstream that run, or wait for a turn.");
    metrics::describe_histogram!("entrepot_transfer_wait_seconds", "How long a transfer waited for its turn.");
    metrics::describe_histogram!(
        "entrepot_bandwidth_wait_seconds",
        "How long bytes waited for bandwidth_max, if they did."
    );
    metrics::describe_counter!("entrepot_upstream_requests_total", "Requests to upstreams, by operation and result.");
    metrics::describe_counter!("entrepot_issuer_requests_total", "Times issuers of tokens were asked for their keys.");
    metrics::describe_histogram!("entrepot_upstream_request_seconds", "How long upstreams took to answer.");
    metrics::describe_gauge!("entrepot_upstream_ratelimit_remaining", "Requests left of an upstream's rate limit.");
    metrics::describe_gauge!("entrepot_upstream_ratelimit_limit", "Requests an upstream allows in a window.");
    metrics::describe_counter!("entrepot_stale_total", "Answers that the upstream could not confirm.");
    metrics::describe_counter!("entrepot_refreshed_ahead_total", "Tags confirmed before their time was up.");
    metrics::describe_counter!("entrepot_evicted_bytes_total", "Bytes removed to make room.");
    metrics::describe_counter!("entrepot_evicted_blobs_total", "Blobs removed to make room.");
    metrics::describe_counter!("entrepot_log_lines_dropped_total", "Log lines dropped: the log's reader was too slow.");
    metrics::describe_counter!(
        "entrepot_audit_events_lost_total",
        "Events that could not be written to the audit log."
    );
    metrics::describe_counter!("entrepot_webhook_events_total", "Events that left a webhook's queue, by result.");
    metrics::describe_counter!("entrepot_webhook_failures_total", "Attempts to tell a webhook that failed.");
    metrics::describe_gauge!("entrepot_webhook_waiting", "Events that wait to be told to a webhook.");
    metrics::describe_counter!("entrepot_scrubbed_blobs_total", "Blobs compared with their digests by the scrub.");
    metrics::describe_counter!("entrepot_scrubbed_bytes_total", "Bytes compared with their digests by the scrub.");
    metrics::describe_gauge!("entrepot_lost_blobs", "Pushed blobs whose bytes are lost until they are pushed again.");
    metrics::describe_counter!("entrepot_damaged_blobs_total", "Stored blobs found damaged, by content and finding.");
    metrics::describe_gauge!("entrepot_store_bytes", "Disk space taken or promised, by what it is for.");
    metrics::describe_gauge!("entrepot_quota_bytes", "Disk space of what the repositories under a quota hold.");
    metrics::describe_gauge!("entrepot_quota_max_bytes", "The configured quotas.");
    metrics::describe_gauge!("entrepot_pinned_bytes", "Disk space of cached blobs that are pinned.");
    metrics::describe_gauge!("entrepot_unwritten_bytes", "Disk space promised to fills and uploads, not yet written.");
    metrics::describe_gauge!("entrepot_lists_bytes", "Lists of tags and referrers kept in the index.");
    metrics::describe_counter!("entrepot_lists_too_long_total", "Lists of upstreams with more entries than are kept.");
    metrics::describe_gauge!("entrepot_tls_certificate_ends_timestamp_seconds", "When the port's certificate ends.");
    metrics::describe_counter!("entrepot_tls_reloads_total", "Times the certificate's files were read anew.");
    metrics::describe_counter!("entrepot_acme_attempts_total", "Attempts to get a certificate by ACME, by result.");
    metrics::describe_gauge!("entrepot_acme_next_attempt_timestamp_seconds", "When a certificate is asked for next.");
    metrics::describe_counter!("entrepot_tls_handshakes_total", "TLS handshakes with clients, by result.");
    metrics::describe_counter!("entrepot_refused_total", "What was refused because of a limit, by the limit's name.");
    metrics::describe_counter!("entrepot_sweep_reviewed_total", "Possible garbage that was looked at.");
    metrics::describe_counter!("entrepot_sweep_deleted_total", "Garbage removed, by kind.");
    metrics::describe_counter!("entrepot_sweep_freed_bytes_total", "Disk space given back by removing garbage.");
    metrics::describe_gauge!("entrepot_sweep_queue", "Possible garbage that waits to be looked at.");
    metrics::describe_gauge!("entrepot_sweep_oldest_seconds", "How long the first of it has been waiting.");
    metrics::describe_gauge!("entrepot_limit", "The configured limits.");
    metrics_process::Collector::default().describe();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_rendered_with_its_labels() {
        let metrics = Metrics::new();
        metrics.request("pull_blob", "hit", Some(200), 10);
        metrics.fills_in_flight.increment(1.0);
        let text = metrics.render();
        assert!(text.contains(r#"entrepot_requests_total{action="pull_blob",outcome="hit",status="200"} 1"#), "{text}");
        assert!(text.contains("entrepot_fills_in_flight 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
