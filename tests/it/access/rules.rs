//! Rules, defaults, immutable tags, administrators and robots, over HTTP.

use entrepot::config::{AccessRule, Allowed, Auth, Visibility};

use super::{PASSWORD, as_user, auth, basic, bearer, public, robot, rule, secured};
use crate::support::client::Call;
use crate::support::content;
use crate::support::push::{IMAGE, assert_refused, digest_of, image, push_image};
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

#[tokio::test]
async fn without_accounts_only_this_machine_changes_anything_and_everybody_pulls() {
    let registry = TestRegistry::builder().start().await;
    push_image(&registry, "team/app", "v1", b"layer").await;
    let from_elsewhere = |call: Call| registry.send(call.header("x-forwarded-for", "203.0.113.7"));
    assert_eq!(from_elsewhere(Call::get(&manifest_path("team/app", "v1"))).await.status(), 200);
    assert_eq!(from_elsewhere(Call::get("/v2/")).await.status(), 200);
    assert_eq!(from_elsewhere(Call::get("/v2/_catalog")).await.status(), 200);
    for call in [
        Call::new("POST", "/v2/team/app/blobs/uploads/").body(""),
        Call::new("PUT", &manifest_path("team/app", "v2")).body("{}"),
        Call::new("DELETE", &manifest_path("team/app", "v1")),
    ] {
        let refused = from_elsewhere(call).await;
        assert_refused(&refused, 403, "DENIED", "a change from elsewhere");
        assert!(refused.message().contains("`auth`"), "{}", refused.message());
        assert_eq!(refused.header("www-authenticate"), None, "there is nobody to log in as");
    }
    // What docker shows a mirror of Docker Hub is none of our business.
    let with_password = Call::get(&manifest_path("team/app", "v1")).header("authorization", &basic("me", "hub"));
    assert_eq!(from_elsewhere(with_password).await.status(), 200);
    assert_eq!(registry.get("/token").await.status(), 404);
    assert_eq!(registry.send(Call::new("DELETE", &manifest_path("team/app", "v1"))).await.status(), 202);
    registry.finish().await;
}

#[tokio::test]
async fn rules_open_and_close_by_repository_and_by_who_asks() {
    let registry = secured(public()).await;
    let pull = |name: &str| Call::get(&manifest_path(name, "v1"));
    for (call, status, what) in [
        (pull("open/app"), 200, "anonymous pull"),
        (pull("team-a/app"), 401, "a repository of a team"),
        (as_user(pull("team-a/app"), "alice"), 200, "a member"),
        (as_user(pull("team-a/app"), "bob"), 403, "somebody else"),
        (as_user(pull("open/app"), "bob"), 200, "by default"),
        (pull("open/app").header("authorization", &basic("bob", "guess")), 401, "a wrong password is not nobody"),
        (pull("open/app").header("authorization", &basic("nobody", PASSWORD)), 401, "an unknown user"),
        (pull("open/app").header("authorization", "Basic Og=="), 200, "podman's kind of nobody"),
        (
            as_user(Call::new("POST", "/v2/open/app/blobs/uploads/?digest=none").body(""), "bob"),
            400,
            "a push, past the gate",
        ),
        (Call::new("POST", "/v2/open/app/blobs/uploads/").body(""), 401, "a push of nobody's"),
        (as_user(Call::new("POST", "/v2/team-a/new/blobs/uploads/").body(""), "bob"), 403, "a push among a team"),
    ] {
        assert_eq!(registry.send(call).await.status(), status, "{what}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn what_may_not_be_seen_and_what_is_not_there_look_alike() {
    let registry = secured(public()).await;
    let digest = digest_of(b"the layer of team a");
    for (there, missing) in [
        (manifest_path("team-a/app", "v1"), manifest_path("team-a/none", "v1")),
        (manifest_path("team-a/app", "v1"), manifest_path("team-a/app", "v9")),
        (blob_path("team-a/app", &digest), blob_path("team-a/none", &digest)),
        ("/v2/team-a/app/tags/list".to_owned(), "/v2/team-a/none/tags/list".to_owned()),
        (format!("/v2/team-a/app/referrers/{digest}"), format!("/v2/team-a/none/referrers/{digest}")),
    ] {
        for name in [None, Some("bob")] {
            let ask = |path: &str| {
                let call = Call::get(path);
                registry.send(if let Some(name) = name { as_user(call, name) } else { call })
            };
            let (one, other) = (ask(&there).await, ask(&missing).await);
            assert_eq!(one.status(), other.status(), "{there}");
            let plain = |text: String| text.replace("team-a/none", "team-a/app");
            assert_eq!(plain(one.message()), plain(other.message()), "{there}");
            let challenge = |answer: &crate::support::client::Answer| {
                plain(answer.header("www-authenticate").unwrap_or_default().to_owned())
            };
            assert_eq!(challenge(&one), challenge(&other), "{there}");
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn the_list_of_repositories_shows_what_may_be_pulled() {
    let registry = secured(public()).await;
    let names = |answer: crate::support::client::Answer| answer.json()["repositories"].clone();
    let list = || Call::get("/v2/_catalog");
    assert_eq!(names(registry.send(list()).await), serde_json::json!(["open/app"]));
    assert_eq!(names(registry.send(as_user(list(), "bob")).await), serde_json::json!(["open/app"]));
    assert_eq!(names(registry.send(as_user(list(), "alice")).await), serde_json::json!(["open/app", "team-a/app"]));
    let page = registry.send(as_user(Call::get("/v2/_catalog?n=1"), "bob")).await;
    assert_eq!((names(page.clone()), page.header("link")), (serde_json::json!(["open/app"]), None), "no hint at more");
    registry.finish().await;
}

#[tokio::test]
async fn nothing_is_mounted_or_adopted_from_where_one_may_not_pull() {
    let registry = secured(public()).await;
    let digest = digest_of(b"the layer of team a");
    let mount = |from: &str| Call::new("POST", &format!("/v2/open/app/blobs/uploads/?mount={digest}{from}")).body("");
    for from in ["&from=team-a/app", ""] {
        let answer = registry.send(as_user(mount(from), "bob")).await;
        assert_eq!(answer.status(), 202, "bob got {from:?}");
        let place = answer.header("location").unwrap().to_owned();
        assert_eq!(registry.send(as_user(Call::new("DELETE", &place), "bob")).await.status(), 204);
    }
    // A manifest that names it does not bring it along.
    let config = "{}".to_owned();
    let pushed = Call::new("POST", &format!("/v2/open/app/blobs/uploads/?digest={}", digest_of(&config))).body(config);
    assert_eq!(registry.send(as_user(pushed, "bob")).await.status(), 201);
    let manifest = image(b"{}", &[b"the layer of team a"]).to_string();
    let put = Call::new("PUT", &manifest_path("open/app", "stolen")).header("content-type", IMAGE).body(manifest);
    assert_refused(&registry.send(as_user(put, "bob")).await, 404, "MANIFEST_BLOB_UNKNOWN", "adopted");
    let blob = as_user(Call::get(&blob_path("open/app", &digest)), "bob");
    assert_eq!(registry.send(blob).await.status(), 404);
    // A token for one repository opens no other by a mount either, although alice may pull from both.
    let narrow = bearer(&registry, Some("alice"), &["repository:open/app:pull,push"]).await;
    let answer = registry.send(mount("&from=team-a/app").header("authorization", &narrow)).await;
    assert_eq!(answer.status(), 401);
    assert_eq!(registry.send(as_user(mount("&from=team-a/app"), "alice")).await.status(), 201);
    registry.finish().await;
}

#[tokio::test]
async fn no_spelling_gets_around_a_rule() {
    let fake = FakeUpstream::start().await;
    fake.push_image("library/nginx", "1", &[b"layer"]);
    let auth = Auth { rules: vec![rule(&["docker.io/library/nginx"], &["user:alice"], &[Allowed::Pull])], ..public() };
    let registry =
        TestRegistry::builder().default_upstream("docker.io", &fake).config(|config| config.auth = Some(auth));
    let registry = registry.start().await;
    for path in [
        "/v2/nginx/manifests/1",
        "/v2/library/nginx/manifests/1",
        "/v2/docker.io/nginx/manifests/1",
        "/v2/docker.io/library/nginx/manifests/1",
        "/v2/nginx/manifests/1?ns=docker.io",
        "/v2/library/nginx/manifests/1?ns=docker.io",
    ] {
        assert_eq!(registry.get(path).await.status(), 401, "{path}");
        assert_eq!(registry.send(as_user(Call::get(path), "bob")).await.status(), 403, "{path}");
        assert_eq!(registry.send(as_user(Call::get(path), "alice")).await.status(), 200, "{path}");
        // Whatever the scope calls it, and whatever the path: it is the same repository.
        let token = bearer(&registry, Some("alice"), &["repository:library/nginx:pull"]).await;
        assert_eq!(registry.send(Call::get(path).header("authorization", &token)).await.status(), 200, "{path}");
    }
    let counted = fake.requests().len();
    registry.get("/v2/nginx/manifests/none").await;
    assert_eq!(fake.requests().len(), counted, "an upstream is asked for who may not know the answer");
    registry.finish().await;
}

#[tokio::test]
async fn an_upstream_for_members_is_closed_to_nobody_in_particular() {
    let fake = FakeUpstream::start().await;
    let digest = fake.push_blob("org/app", content(1000, 3));
    let registry = TestRegistry::builder()
        .upstream(HUB, &fake)
        .config(|config| {
            config.upstreams[0].visibility = Visibility::Authenticated;
            config.auth = Some(public());
        })
        .start()
        .await;
    let path = blob_path(&format!("{HUB}/org/app"), &digest);
    assert_eq!(registry.get(&path).await.status(), 401);
    assert_eq!(registry.send(as_user(Call::get(&path), "bob")).await.status(), 200);
    assert_eq!(registry.get(&path).await.status(), 401, "also what is cached");
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], serde_json::json!([]));
    let mount = format!("/v2/mine/blobs/uploads/?mount={digest}&from={HUB}/org/app");
    assert_eq!(registry.send(Call::new("POST", &mount).body("")).await.status(), 401);
    registry.finish().await;
}

#[tokio::test]
async fn an_immutable_tag_is_set_once_and_for_all() {
    let immutable = AccessRule { immutable: vec!["v*".to_owned()], ..rule(&["**"], &[], &[]) };
    let mut auth = auth();
    auth.rules.push(immutable);
    let registry = secured(auth).await;
    let manifest = |config: &[u8]| image(config, &[]).to_string();
    let put = |reference: &str, bytes: String| {
        let call = Call::new("PUT", &manifest_path("open/app", reference)).header("content-type", IMAGE).body(bytes);
        registry.send(as_user(call, "bob"))
    };
    for config in ["{}", "{ }"] {
        let path = format!("/v2/open/app/blobs/uploads/?digest={}", digest_of(config));
        assert_eq!(registry.send(as_user(Call::new("POST", &path).body(config), "bob")).await.status(), 201);
    }
    let (one, other) = (manifest(b"{}"), manifest(b"{ }"));
    assert_eq!(put("v2", one.clone()).await.status(), 201);
    assert_eq!(put("v2", one.clone()).await.status(), 201, "the same again moves nothing");
    assert_refused(&put("v2", other.clone()).await, 403, "DENIED", "moved");
    let by_digest = format!("{}?tag=latest&tag=v2", digest_of(&other));
    assert_refused(&put(&by_digest, other.clone()).await, 403, "DENIED", "moved by a parameter");
    assert_eq!(registry.send(as_user(Call::get(&manifest_path("open/app", "latest")), "bob")).await.status(), 404);
    let delete =
        |reference: String| registry.send(as_user(Call::new("DELETE", &manifest_path("open/app", reference)), "bob"));
    assert_refused(&delete("v2".to_owned()).await, 403, "DENIED", "deleted");
    assert_refused(&delete(digest_of(&one).to_string()).await, 403, "DENIED", "deleted with its manifest");
    assert_eq!(put("latest", one).await.status(), 201);
    assert_eq!(put("latest", other).await.status(), 201, "other tags move");
    assert_eq!(delete("latest".to_owned()).await.status(), 202);
    registry.finish().await;
}

#[tokio::test]
async fn the_admin_api_is_for_administrators_too_but_not_for_tokens() {
    let registry = secured(auth()).await;
    let ask = |call: Call| registry.send(call.header("x-forwarded-for", "203.0.113.7"));
    let fills = || Call::get("/api/v1/fills");
    let refused = ask(fills()).await;
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some("Basic realm=\"entrepot\"")));
    assert_eq!(ask(as_user(fills(), "root")).await.status(), 200);
    assert_eq!(ask(as_user(fills(), "alice")).await.status(), 403);
    assert_eq!(ask(fills().header("authorization", &basic("root", "guess"))).await.status(), 401);
    let token = bearer(&registry, Some("root"), &["repository:open/app:pull", "registry:catalog:*"]).await;
    assert_eq!(ask(fills().header("authorization", &token)).await.status(), 403);
    assert_eq!(registry.get("/api/v1/fills").await.status(), 200, "this machine still may");
    registry.finish().await;
}

#[tokio::test]
async fn a_robot_may_what_it_was_given_until_it_is_revoked() {
    let mut registry = secured(public()).await;
    let (username, token) = robot(&registry, "ci", &["pull"], &["team-a/**"]).await;
    assert_eq!(username, "robot+ci");
    let pull = |name: &str| Call::get(&manifest_path(name, "v1")).header("authorization", &basic(&username, &token));
    assert_eq!(registry.send(pull("team-a/app")).await.status(), 200);
    assert_eq!(registry.send(pull("open/app")).await.status(), 403, "rules and defaults are not for robots");
    let push = Call::new("POST", "/v2/team-a/app/blobs/uploads/").body("");
    assert_eq!(registry.send(push.header("authorization", &basic(&username, &token))).await.status(), 403);
    let listed = registry.get("/api/v1/robots").await;
    assert_eq!(listed.json()["robots"][0]["name"], "ci");
    let shown = String::from_utf8_lossy(&listed.body).into_owned();
    assert!(!shown.contains(&token), "a token is shown once");
    registry.restart().await;
    assert_eq!(registry.send(pull("team-a/app")).await.status(), 200, "it outlives the process");
    let other_password = basic(&username, &format!("{token}x"));
    let wrong = Call::get("/v2/").header("authorization", &other_password);
    assert_eq!(registry.send(wrong).await.status(), 401);
    let call =
        Call::get("/token?scope=repository:team-a/app:pull,push").header("authorization", &basic(&username, &token));
    let bearer = registry.send(call).await.json()["token"].as_str().unwrap().to_owned();
    let by_token =
        || Call::get(&manifest_path("team-a/app", "v1")).header("authorization", &format!("Bearer {bearer}"));
    assert_eq!(registry.send(by_token()).await.status(), 200);
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/robots/ci")).await.status(), 204);
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/robots/ci")).await.status(), 404);
    assert_eq!(registry.send(pull("team-a/app")).await.status(), 401, "revoked");
    assert_eq!(registry.send(by_token()).await.status(), 401, "revoked, and its tokens with it");
    registry.finish().await;
}

#[tokio::test]
async fn nobody_who_signed_in_takes_all_upload_sessions() {
    let mut registry = secured(auth()).await;
    registry.reconfigure(|config| config.push.sessions_per_identity_max = 2).await;
    let token = bearer(&registry, Some("alice"), &["repository:open/app:push"]).await;
    let begin = |authorization: &str| {
        let call = Call::new("POST", "/v2/open/app/blobs/uploads/").body("");
        registry.send(call.header("authorization", authorization))
    };
    let (alice, bob) = (basic("alice", PASSWORD), basic("bob", PASSWORD));
    let mut sessions = Vec::new();
    for authorization in [&alice, &token, &bob] {
        let answer = begin(authorization).await;
        assert_eq!(answer.status(), 202);
        sessions.push(answer.header("location").unwrap().to_owned());
    }
    for authorization in [&alice, &token] {
        let refused = begin(authorization).await;
        assert_refused(&refused, 429, "TOOMANYREQUESTS", "the third of alice");
        assert!(refused.header("retry-after").is_some());
        let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("user:alice has 2"), "{message}");
    }
    let counted = r#"entrepot_refused_total{limit="push.sessions_per_identity_max"} 2"#;
    assert!(registry.metrics().contains(counted), "{}", registry.metrics());
    let cancel = |session: &str| as_user(Call::new("DELETE", session), "alice");
    assert_eq!(registry.send(cancel(&sessions.swap_remove(0))).await.status(), 204);
    let again = begin(&alice).await;
    assert_eq!(again.status(), 202, "one has ended");
    sessions.push(again.header("location").unwrap().to_owned());
    for session in sessions {
        assert_eq!(registry.send(cancel(&session)).await.status(), 204);
    }
    registry.finish().await;
}
