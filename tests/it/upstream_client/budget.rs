//! Rate limits: read from every answer, shown, and respected.

use std::time::Duration;

use entrepot::clock::Clock;
use entrepot::metrics::Metrics;
use entrepot::upstream::{Options, Upstream};

use super::{REPOSITORY, options, reference, repository};
use crate::support::upstream::FakeUpstream;

/// Docker Hub's headers on every answer from now on.
fn left(fake: &FakeUpstream, remaining: u64) {
    fake.header("ratelimit-limit", "100;w=21600");
    fake.header("ratelimit-remaining", &format!("{remaining};w=21600"));
}

#[tokio::test]
async fn the_rate_limit_of_any_answer_is_kept_until_its_window_ends() {
    let fake = FakeUpstream::start().await;
    let (clock, metrics) = (Clock::manual(), Metrics::new());
    let timed = Options { clock: clock.clone(), metrics: metrics.clone(), ..options(&fake) };
    let upstream = Upstream::new(timed).unwrap();
    assert_eq!(upstream.budget(), None);
    left(&fake, 7);
    assert!(upstream.head_manifest(&repository(), &reference("none")).await.is_err());
    let budget = upstream.clone().budget().unwrap();
    assert_eq!((budget.limit, budget.remaining, budget.window), (Some(100), 7, Some(Duration::from_hours(6))));
    assert_eq!(budget.resets_at_ms, Some(clock.now_ms() + 6 * 3_600_000));
    let shown = metrics.render();
    for line in [
        r#"entrepot_upstream_ratelimit_remaining{upstream="fake.example",account="0"} 7"#,
        r#"entrepot_upstream_ratelimit_limit{upstream="fake.example",account="0"} 100"#,
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    clock.advance(Duration::from_hours(6));
    assert_eq!(upstream.budget(), None);
}

#[tokio::test]
async fn the_head_of_a_manifest_tells_what_is_left_too() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    let upstream = Upstream::new(options(&fake)).unwrap();
    for remaining in [9, 8] {
        left(&fake, remaining);
        upstream.head_manifest(&repository(), &reference("1")).await.unwrap();
        assert_eq!(upstream.budget().unwrap().remaining, remaining);
    }
}
