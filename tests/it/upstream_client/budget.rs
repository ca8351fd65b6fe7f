//! Rate limits: read from every answer, shown, and respected.

use std::time::Duration;

use entrepot::clock::Clock;
use entrepot::metrics::Metrics;
use entrepot::upstream::{Account, Credentials, Error, Options, SourceOptions, Upstream};

use super::{REPOSITORY, options, reference, repository};
use crate::support::upstream::{FakeUpstream, Fault, Guard, On, basic};

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

/// A fake that knows two users, and a client with both accounts.
async fn two_accounts() -> (FakeUpstream, Upstream, Clock) {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake.guard(Guard::BasicOf(&[("first", "hunter2"), ("second", "hunter2")]));
    let account = |user: &str| Account::Fixed(Credentials { username: user.to_owned(), password: "hunter2".into() });
    let accounts = vec![account("first"), account("second")];
    let sources = vec![SourceOptions { url: fake.base_url().parse().unwrap(), accounts }];
    let clock = Clock::manual();
    let both = Options { sources, clock: clock.clone(), ..options(&fake) };
    (fake, Upstream::new(both).unwrap(), clock)
}

async fn pull(upstream: &Upstream) -> Result<(), Error> {
    upstream.fetch_manifest(&repository(), &reference("1")).await.map(|_| ())
}

/// Which user the last request was made as.
fn last_user(fake: &FakeUpstream) -> &'static str {
    let last = fake.requests().last().header("authorization").map(str::to_owned);
    ["first", "second"].into_iter().find(|user| last == Some(basic(user, "hunter2"))).expect("it was one of them")
}

#[tokio::test]
async fn an_account_that_is_limited_rests_while_the_next_one_asks() {
    let (fake, upstream, clock) = two_accounts().await;
    pull(&upstream).await.unwrap();
    assert_eq!(last_user(&fake), "first");
    fake.fault(On::any().times(1), Fault::rate_limited(60));
    pull(&upstream).await.unwrap();
    assert_eq!(last_user(&fake), "second", "the one request is answered all the same");
    let before = fake.requests().len();
    pull(&upstream).await.unwrap();
    assert_eq!((last_user(&fake), fake.requests().len() - before), ("second", 1));
    assert!(upstream.sources()[0].accounts[0].rests_until_ms.is_some());
    clock.advance(Duration::from_mins(1));
    pull(&upstream).await.unwrap();
    assert_eq!(last_user(&fake), "first");
}

#[tokio::test]
async fn an_account_whose_budget_is_used_up_rests_until_its_window_ends() {
    let (fake, upstream, clock) = two_accounts().await;
    left(&fake, 0);
    pull(&upstream).await.unwrap();
    left(&fake, 50);
    pull(&upstream).await.unwrap();
    assert_eq!(last_user(&fake), "second");
    let budget = upstream.budget().unwrap();
    assert_eq!((budget.limit, budget.remaining), (Some(200), 50), "the budgets of both");
    clock.advance(Duration::from_hours(6));
    assert_eq!(upstream.budget(), None);
    pull(&upstream).await.unwrap();
    assert_eq!(last_user(&fake), "first");
}

#[tokio::test]
async fn when_all_budgets_are_used_up_it_is_asked_all_the_same_until_it_says_no() {
    let (fake, upstream, _) = two_accounts().await;
    left(&fake, 0);
    for _ in 0..4 {
        pull(&upstream).await.unwrap();
    }
    fake.fault(On::any(), Fault::rate_limited(60));
    assert_eq!(pull(&upstream).await.unwrap_err().kind(), "rate_limited");
    let before = fake.requests().len();
    assert_eq!(pull(&upstream).await.unwrap_err().kind(), "rate_limited");
    assert_eq!(fake.requests().len(), before, "both were told to stay away");
}

#[tokio::test]
async fn nothing_is_asked_before_retry_after_in_whichever_form() {
    let date = |seconds: i64| {
        let now = u64::try_from(Clock::manual().now_ms() / 1000 + seconds).unwrap();
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(now))
    };
    let unix = (Clock::manual().now_ms() / 1000 + 60).to_string();
    for retry_after in ["60".to_owned(), date(60), unix] {
        let fake = FakeUpstream::start().await;
        fake.push_image(REPOSITORY, "1", &[]);
        let clock = Clock::manual();
        let limits = Options { clock: clock.clone(), retries: 0, ..options(&fake) };
        let upstream = Upstream::new(limits).unwrap();
        fake.fault(On::any().times(1), Fault::Status(429, vec![("retry-after", retry_after.clone())]));
        assert_eq!(pull(&upstream).await.unwrap_err().retry_after(), Some(Duration::from_mins(1)), "{retry_after}");
        clock.advance(Duration::from_secs(59));
        let error = pull(&upstream).await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), ("rate_limited", Some(Duration::from_secs(1))));
        assert_eq!(fake.requests().len(), 1);
        clock.advance(Duration::from_secs(1));
        pull(&upstream).await.unwrap();
    }
}

#[tokio::test]
async fn a_limit_of_where_a_redirect_leads_is_nobodys_account() {
    let (fake, cdn) = (FakeUpstream::start().await, FakeUpstream::start().await);
    fake.push_image(REPOSITORY, "1", &[]);
    let upstream = Upstream::new(options(&fake)).unwrap();
    fake.fault(On::any().times(1), Fault::RedirectTo(cdn.base_url().to_owned()));
    cdn.fault(On::any(), Fault::rate_limited(60));
    left(&cdn, 0);
    assert_eq!(pull(&upstream).await.unwrap_err().kind(), "rate_limited");
    assert_eq!(upstream.budget(), None);
    pull(&upstream).await.unwrap();
}
