//! `visibility: passthrough`: what is cached of an upstream is shown to those whose own credentials are good there.

use std::time::Duration;

use entrepot::config::{Credentials, Identity, Password, Visibility};

use crate::support::client::{Answer, Call};
use crate::support::registry::{Builder, HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::{Bearer, FakeUpstream, Fault, Gate, Guard, Image, On, basic};

const REPOSITORY: &str = "team/app";
const MINUTE: Duration = Duration::from_mins(1);
const ALICE: (&str, &str) = ("alice", "wonderland");
const BOB: (&str, &str) = ("bob", "hunter2");
const ROBOT: (&str, &str) = ("robot", "beep");

fn over(fake: &FakeUpstream) -> Builder {
    TestRegistry::builder().default_upstream(HUB, fake).revalidate_after(60 * MINUTE).upstreams(|upstream| {
        upstream.visibility = Visibility::Passthrough;
        upstream.access_ttl = 5 * MINUTE;
    })
}

/// Alice may pull, Bob may not; she has pulled once.
async fn with_cached_image() -> (FakeUpstream, TestRegistry, Image) {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Basic(ALICE.0, ALICE.1));
    let registry = over(&fake).start().await;
    for path in paths(&image) {
        assert_eq!(as_user(&registry, ALICE, &path).await.status(), 200, "{path}");
    }
    registry.fills_end().await;
    (fake, registry, image)
}

fn paths(image: &Image) -> [String; 3] {
    [manifest_path(REPOSITORY, "1"), manifest_path(REPOSITORY, image.manifest), blob_path(REPOSITORY, &image.layers[0])]
}

async fn as_user(registry: &TestRegistry, (user, password): (&str, &str), path: &str) -> Answer {
    registry.send(Call::get(path).header("authorization", &basic(user, password))).await
}

fn assert_challenged(answer: &Answer, what: &str) {
    assert_eq!(answer.status(), 401, "{what}");
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"entrepot\""), "{what}");
    assert_eq!(answer.header("entrepot-cache"), None, "{what}: it says whether it is cached");
}

#[tokio::test]
async fn who_gives_no_credentials_is_asked_for_them_and_learns_nothing() {
    let (fake, registry, image) = with_cached_image().await;
    let asked = fake.requests().len();
    let mut all = paths(&image).to_vec();
    all.push(format!("/v2/{REPOSITORY}/tags/list"));
    all.push(format!("/v2/{REPOSITORY}/referrers/{}", image.manifest));
    all.push(manifest_path("team/unknown", "1"));
    all.push(manifest_path(&format!("{HUB}/{REPOSITORY}"), "1"));
    all.push(format!("{}?ns={HUB}", manifest_path(REPOSITORY, "1")));
    for path in &all {
        let answer = registry.get(path).await;
        assert_challenged(&answer, path);
        assert_eq!(answer.code(), "UNAUTHORIZED");
        assert_challenged(&registry.head(path).await, path);
    }
    // What podman sends for nobody.
    let nobody = registry.send(Call::get(&all[0]).header("authorization", "Basic Og==")).await;
    assert_challenged(&nobody, "nobody");
    assert_challenged(&registry.get("/v2/").await, "the probe");
    assert_eq!(as_user(&registry, ALICE, "/v2/").await.status(), 200);
    assert_eq!(fake.requests().len(), asked, "the upstream was asked without credentials");
    registry.finish().await;
}

#[tokio::test]
async fn the_upstreams_own_permissions_are_honoured_for_what_is_cached_too() {
    let (fake, registry, image) = with_cached_image().await;
    let uncached = manifest_path("team/other", "1");
    fake.push_image("team/other", "1", &[b"another layer"]);
    let refused = as_user(&registry, BOB, &uncached).await;
    assert_challenged(&refused, "not cached");
    for path in paths(&image) {
        let answer = as_user(&registry, BOB, &path).await;
        assert_challenged(&answer, &path);
        assert_eq!(
            (answer.code(), answer.message().len()),
            (refused.code(), refused.message().len() - "other".len() + "app".len())
        );
    }
    assert_eq!(as_user(&registry, ALICE, &paths(&image)[0]).await.cache(), "hit");
    registry.finish().await;
}

#[tokio::test]
async fn good_credentials_are_asked_about_once_in_a_while_for_each_repository() {
    let (fake, registry, image) = with_cached_image().await;
    let asked = fake.requests().len();
    for path in paths(&image) {
        assert_eq!(as_user(&registry, ALICE, &path).await.cache(), "hit");
    }
    assert_eq!(fake.requests().len(), asked, "they were asked about again");
    registry.advance(5 * MINUTE);
    assert_eq!(as_user(&registry, ALICE, &paths(&image)[2]).await.cache(), "hit");
    let requests = fake.requests();
    assert_eq!((requests.len(), requests.last().method.as_str()), (asked + 1, "HEAD"));
    fake.guard(Guard::Basic(ROBOT.0, ROBOT.1));
    assert_eq!(as_user(&registry, ALICE, &paths(&image)[2]).await.cache(), "hit", "still taken to be good");
    registry.advance(5 * MINUTE);
    assert_eq!(as_user(&registry, ALICE, &paths(&image)[2]).await.status(), 401, "what was revoked is forgotten");
    registry.finish().await;
}

#[tokio::test]
async fn refused_credentials_are_not_tried_on_the_upstream_again_and_again() {
    let (fake, registry, image) = with_cached_image().await;
    as_user(&registry, BOB, &paths(&image)[0]).await;
    let asked = fake.requests().len();
    for path in paths(&image) {
        assert_eq!(as_user(&registry, BOB, &path).await.status(), 401);
    }
    assert_eq!(fake.requests().len(), asked);
    registry.finish().await;
}

#[tokio::test]
async fn that_one_tag_is_missing_does_not_close_the_repository() {
    let (_fake, registry, image) = with_cached_image().await;
    registry.advance(5 * MINUTE);
    let missing = as_user(&registry, ALICE, &manifest_path(REPOSITORY, "missing")).await;
    assert_eq!((missing.status(), missing.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    assert_eq!(as_user(&registry, ALICE, &paths(&image)[0]).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_callers_credentials_are_exchanged_at_the_upstreams_token_service() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Bearer(Bearer { credentials: Some(ALICE), ..Bearer::default() }));
    let registry = over(&fake).start().await;
    for path in paths(&image) {
        assert_eq!(as_user(&registry, ALICE, &path).await.status(), 200, "{path}");
        assert_eq!(as_user(&registry, BOB, &path).await.status(), 401, "{path}");
    }
    let requests = fake.requests();
    assert_eq!(requests.tokens_got(), 2, "one for her, one in vain for him");
    let leaked = requests.0.iter().filter(|request| {
        let is_password = request.header("authorization").is_some_and(|value| value.starts_with("Basic"));
        is_password && request.path != "/token"
    });
    assert_eq!(leaked.count(), 0, "passwords went elsewhere than to the token service");
    registry.finish().await;
}

#[tokio::test]
async fn credentials_of_our_own_fetch_what_the_callers_gave_access_to() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::BasicOf(&[ALICE, ROBOT]));
    let ours = Credentials { username: ROBOT.0.to_owned(), password: Password::Written(ROBOT.1.into()) };
    let builder = over(&fake).upstreams(|upstream| upstream.identity = Identity::One(ours.clone()));
    let registry = builder.start().await;
    for path in paths(&image) {
        assert_eq!(as_user(&registry, ALICE, &path).await.status(), 200, "{path}");
    }
    let by = |user: (&str, &str)| {
        let header = basic(user.0, user.1);
        let requests = fake.requests().0.into_iter().filter(|request| request.header("authorization") == Some(&header));
        requests.map(|request| request.method).collect::<Vec<_>>()
    };
    assert_eq!(by(ALICE), ["HEAD"], "hers are for the question whether she may");
    assert!(by(ROBOT).iter().all(|method| method == "GET") && by(ROBOT).len() == 2);
    registry.finish().await;
}

#[tokio::test]
async fn while_the_upstream_is_down_those_who_proved_themselves_are_served_and_all_others_alike_are_not() {
    let (mut fake, registry, image) = with_cached_image().await;
    fake.stop().await;
    for path in paths(&image) {
        assert_eq!(as_user(&registry, ALICE, &path).await.cache(), "hit", "{path}");
    }
    let cached = as_user(&registry, BOB, &paths(&image)[0]).await.status();
    let uncached = as_user(&registry, BOB, &manifest_path("team/other", "1")).await.status();
    assert_eq!((cached, uncached), (504, 504));
    registry.advance(5 * MINUTE);
    assert!(as_user(&registry, ALICE, &paths(&image)[0]).await.status() >= 500);
    registry.finish().await;
}

#[tokio::test]
async fn an_outage_is_not_taken_for_a_refusal() {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Basic(ALICE.0, ALICE.1));
    fake.fault(On::any(), Fault::status(500));
    let registry = over(&fake).start().await;
    let path = manifest_path(REPOSITORY, "1");
    assert_eq!(as_user(&registry, ALICE, &path).await.status(), 502);
    fake.heal();
    assert_eq!(as_user(&registry, ALICE, &path).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn guarded_content_leaves_by_no_other_door() {
    let (_fake, registry, image) = with_cached_image().await;
    let layer = image.layers[0];
    for from in [String::new(), format!("&from={HUB}/{REPOSITORY}"), format!("&from={REPOSITORY}")] {
        let mount = Call::new("POST", &format!("/v2/mine/blobs/uploads/?mount={layer}{from}"));
        let answer = registry.send(mount).await;
        assert_eq!(answer.status(), 202, "it was mounted{from}");
        let session = answer.header("location").expect("a session has a place").to_owned();
        assert_eq!(registry.send(Call::new("DELETE", &session)).await.status(), 204);
    }
    let push = Call::new("POST", &format!("/v2/{HUB}/{REPOSITORY}/blobs/uploads/"));
    assert_eq!(registry.send(push).await.code(), "NAME_INVALID", "pushing would make the cached content everybody's");
    // A manifest that names her layer, in the repository that is laid over hers.
    let config = registry.push_blob(REPOSITORY, "{}").await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": layer.to_string(), "size": 5}],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let answer = registry.push_manifest(REPOSITORY, "2", media_type, manifest.to_string().into()).await;
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(registry.get(&blob_path(REPOSITORY, &layer)).await.status(), 404);
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!([REPOSITORY]), "hers is listed");
    registry.finish().await;
}

#[tokio::test]
async fn the_head_of_a_guarded_blob_is_answered_and_lets_nobody_push_on_the_strength_of_it() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image(REPOSITORY, "1", &[b"layer"]);
    fake.guard(Guard::Basic(ALICE.0, ALICE.1));
    let registry = over(&fake).start().await;
    let layer = image.layers[0];
    for name in [REPOSITORY.to_owned(), format!("{HUB}/{REPOSITORY}")] {
        let head = Call::new("HEAD", &blob_path(&name, &layer)).header("authorization", &basic(ALICE.0, ALICE.1));
        assert_eq!(registry.send(head).await.status(), 200, "{name}");
    }
    let config = registry.push_blob(REPOSITORY, "{}").await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": layer.to_string(), "size": 5}],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let answer = registry.push_manifest(REPOSITORY, "2", media_type, manifest.to_string().into()).await;
    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN", "what she may see was fetched with her credentials for nobody");
    assert_eq!(registry.get(&blob_path(REPOSITORY, &layer)).await.status(), 404);
    registry.finish().await;
}

#[tokio::test]
async fn a_question_about_what_is_not_there_is_no_answer_to_who_wants_something_else() {
    let (fake, registry, image) = with_cached_image().await;
    registry.advance(5 * MINUTE);
    let gate = Gate::closed();
    fake.fault(On::manifest("missing").head(), Fault::SlowFirstByte(gate.clone()));
    let asked = fake.requests().len();
    let missing = manifest_path(REPOSITORY, "missing");
    let both = async {
        fake.until(|requests| requests.len() > asked).await;
        let layer = as_user(&registry, ALICE, &paths(&image)[2]).await;
        gate.let_pass(1);
        layer
    };
    let (missing, layer) = tokio::join!(as_user(&registry, ALICE, &missing), both);
    assert_eq!((layer.status(), layer.cache()), (200, "hit"));
    assert_eq!(missing.status(), 404);
    registry.finish().await;
}

#[tokio::test]
async fn what_was_pushed_before_its_upstream_was_guarded_is_not_shown_by_way_of_another_upstream() {
    const GUARDED: &str = "guarded.example";
    let (public, guarded) = (FakeUpstream::start().await, FakeUpstream::start().await);
    guarded.guard(Guard::Basic(ALICE.0, ALICE.1));
    let builder = TestRegistry::builder().default_upstream(HUB, &public).upstream(GUARDED, &guarded);
    let mut registry = builder.start().await;
    let name = format!("{GUARDED}/{REPOSITORY}");
    let index = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let media_type = "application/vnd.oci.image.index.v1+json";
    let pushed = registry.push_manifest(&name, "1", media_type, index.to_vec().into()).await;
    assert_eq!(pushed.status(), 201);
    let guard = |upstream: &mut entrepot::config::Upstream| upstream.visibility = Visibility::Passthrough;
    registry
        .reconfigure(|config| config.upstreams.iter_mut().filter(|upstream| upstream.name == GUARDED).for_each(guard))
        .await;
    let path = manifest_path(&name, "1");
    assert_eq!(as_user(&registry, BOB, &path).await.status(), 401);
    let elsewhere = as_user(&registry, BOB, &format!("{path}?ns={HUB}")).await;
    assert_eq!(elsewhere.status(), 404, "another spelling opened it");
    registry.finish().await;
}

#[tokio::test]
async fn why_says_that_a_client_has_to_sign_in() {
    let (_fake, registry, _) = with_cached_image().await;
    let why = registry.get(&format!("/api/v1/why?ref={REPOSITORY}:1")).await.json();
    let sign_in = why["upstream"]["sign_in"].as_str().unwrap();
    assert!(sign_in.contains(HUB) && sign_in.contains("visibility: passthrough"), "{sign_in}");
    registry.finish().await;
}
