//! The token service: what is issued for what, to whom, until when.

use std::time::Duration;

use entrepot::config::Auth;

use super::{PASSWORD, as_user, ask_token, auth, basic, bearer, public, robot, secured};
use crate::support::client::{Answer, Call};
use crate::support::push::digest_of;
use crate::support::registry::{TestRegistry, manifest_path};

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_default()
}

async fn post(registry: &TestRegistry, form: &str) -> Answer {
    let call = Call::new("POST", "/token").header("content-type", "application/x-www-form-urlencoded");
    registry.send(call.body(form.to_owned())).await
}

#[tokio::test]
async fn a_client_without_a_token_is_told_where_to_get_one_and_for_what() {
    let registry = secured(auth()).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"entrepot\"", registry.address());
    assert_eq!(challenge(&registry.get("/v2/").await), realm);
    let path = manifest_path("open/app", "v1");
    let pull = format!("{realm},scope=\"repository:open/app:pull\"");
    assert_eq!(challenge(&registry.get(&path).await), pull);
    let head = registry.head(&path).await;
    assert_eq!((head.status(), challenge(&head)), (401, pull.as_str()), "containerd only ever asks by HEAD");
    let push = registry.send(Call::new("POST", "/v2/open/app/blobs/uploads/").body("")).await;
    assert_eq!(challenge(&push), format!("{realm},scope=\"repository:open/app:pull,push\""));
    let delete = registry.send(Call::new("DELETE", &path)).await;
    assert_eq!(challenge(&delete), format!("{realm},scope=\"repository:open/app:delete\""));
    assert_eq!(challenge(&registry.get("/v2/_catalog").await), format!("{realm},scope=\"registry:catalog:*\""));
    registry.finish().await;
}

#[tokio::test]
async fn anonymous_pull_and_authenticated_push_work_by_token() {
    let registry = secured(public()).await;
    let nobody = bearer(&registry, None, &["repository:open/app:pull,push"]).await;
    let with = |call: Call, token: &str| registry.send(call.header("authorization", token));
    let push = || Call::new("POST", "/v2/open/app/blobs/uploads/?mount=sha256:none").body("");
    assert_eq!(with(Call::get("/v2/"), &nobody).await.status(), 200);
    assert_eq!(with(Call::get(&manifest_path("open/app", "v1")), &nobody).await.status(), 200);
    let refused = with(push(), &nobody).await;
    assert_eq!(refused.status(), 401, "log in to push");
    let bob = bearer(&registry, Some("bob"), &["repository:open/app:pull,push"]).await;
    assert_eq!(with(push(), &bob).await.status(), 400, "past the gate, where a digest that is none is found");
    let only_pull = bearer(&registry, Some("bob"), &["repository:open/app:pull"]).await;
    let refused = with(push(), &only_pull).await;
    assert_eq!(refused.status(), 401);
    assert!(challenge(&refused).ends_with(",error=\"insufficient_scope\""), "{}", challenge(&refused));
    registry.finish().await;
}

#[tokio::test]
async fn a_token_gets_what_was_asked_for_and_allowed_and_no_more() {
    let registry = secured(auth()).await;
    let access = |answer: Answer| {
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        let claims = token.split('.').nth(1).unwrap().to_owned();
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["access"].clone()
    };
    let entry =
        |name: &str, actions: &[&str]| serde_json::json!({ "type": "repository", "name": name, "actions": actions });
    for (user, scopes, expected) in [
        (Some("bob"), &["repository:open/app:pull"][..], vec![entry("open/app", &["pull"])]),
        (Some("bob"), &["repository:team-a/app:pull,push"], vec![]),
        (Some("alice"), &["repository:team-a/app:*"], vec![entry("team-a/app", &["pull", "push", "delete"])]),
        (None, &["repository:open/app:pull"], vec![]),
        (Some("bob"), &["repository:*:pull", "repository:team-a/app/:pull"], vec![]),
        (
            Some("alice"),
            &["repository:open/app:pull repository:team-a/app:push", "repository:open/app:push"],
            vec![entry("open/app", &["pull", "push"]), entry("team-a/app", &["push"])],
        ),
    ] {
        let got = access(ask_token(&registry, user, scopes).await);
        assert_eq!(got, serde_json::Value::from(expected), "{user:?} {scopes:?}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn the_answer_has_what_every_client_looks_for() {
    let registry = secured(auth()).await;
    let answer = ask_token(&registry, Some("bob"), &["repository:open/app:pull"]).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    assert_eq!(json["token"], json["access_token"]);
    assert_eq!((json["expires_in"].as_u64(), json["issued_at"].as_str()), (Some(300), Some("2025-06-15T15:06:40Z")));
    assert!(json.get("refresh_token").is_none(), "nobody asked for one");
    for (call, status) in [
        (Call::get("/token").header("authorization", &basic("bob", "guess")), 401),
        (Call::get("/token?service=other"), 400),
        (Call::new("DELETE", "/token"), 405),
        (Call::new("POST", "/token").body("grant_type=client_credentials"), 400),
        (Call::new("POST", "/token").body("grant_type=password&username=bob&password=guess"), 401),
        (Call::new("POST", "/token").body("x".repeat(70_000)), 400),
    ] {
        assert_eq!(registry.send(call).await.status(), status);
    }
    registry.finish().await;
}

#[tokio::test]
async fn containerd_posts_its_password_and_docker_keeps_a_refresh_token_instead() {
    let mut registry = secured(auth()).await;
    let password = PASSWORD.replace(' ', "+");
    let form = format!(
        "grant_type=password&client_id=containerd-client&service=entrepot&username=bob&password={password}&scope=repository%3Aopen%2Fapp%3Apull"
    );
    let answer = post(&registry, &form).await;
    assert_eq!(answer.status(), 200);
    let token = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    let pull = || Call::get(&manifest_path("open/app", "v1"));
    assert_eq!(registry.send(pull().header("authorization", &token)).await.status(), 200);

    let login = Call::get("/token?account=bob&client_id=docker&offline_token=true&service=entrepot");
    let json = registry.send(as_user(login, "bob")).await.json();
    let login_token = format!("Bearer {}", json["token"].as_str().unwrap());
    assert_eq!(registry.send(Call::get("/v2/").header("authorization", &login_token)).await.status(), 200);
    let refresh = json["refresh_token"].as_str().unwrap().to_owned();
    registry.restart().await;
    let renew =
        format!("grant_type=refresh_token&service=entrepot&refresh_token={refresh}&scope=repository:open/app:pull");
    for _ in 0..2 {
        let json = post(&registry, &renew).await.json();
        assert_eq!(json["refresh_token"].as_str(), Some(refresh.as_str()), "docker never keeps a new one");
        let token = format!("Bearer {}", json["access_token"].as_str().unwrap());
        assert_eq!(registry.send(pull().header("authorization", &token)).await.status(), 200);
    }
    // Another password ends it.
    let mut changed = auth();
    let users = &mut changed.htpasswd.as_mut().unwrap().users;
    users[1].password = bcrypt::hash("another", 4).unwrap().into();
    registry.reconfigure(|config| config.auth = Some(changed)).await;
    assert_eq!(post(&registry, &renew).await.status(), 401);
    registry.finish().await;
}

#[tokio::test]
async fn a_refresh_token_ends() {
    let registry = secured(Auth { refresh_lifetime: Duration::from_hours(1), ..auth() }).await;
    let login = as_user(Call::get("/token?offline_token=true"), "bob");
    let refresh = registry.send(login).await.json()["refresh_token"].as_str().unwrap().to_owned();
    let renew = format!("grant_type=refresh_token&refresh_token={refresh}");
    assert_eq!(post(&registry, &renew).await.status(), 200);
    registry.advance(Duration::from_hours(1));
    assert_eq!(post(&registry, &renew).await.status(), 401);
    let (username, token) = robot(&registry, "ci", &["pull"], &["**"]).await;
    let login = Call::get("/token?offline_token=true").header("authorization", &basic(&username, &token));
    assert!(registry.send(login).await.json().get("refresh_token").is_none(), "a robot's token is one by itself");
    registry.finish().await;
}

#[tokio::test]
async fn dockers_password_for_another_registry_does_not_keep_it_from_a_mirror() {
    let registry = secured(public()).await;
    let ask = |path: &str| registry.send(Call::get(path).header("authorization", &basic("me", "my hub password")));
    let answer = ask("/token?account=me&scope=repository:open/app:pull&service=entrepot").await;
    assert_eq!(answer.status(), 200, "what everybody may pull");
    let token = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
    let pull = Call::get(&manifest_path("open/app", "v1")).header("authorization", &token);
    assert_eq!(registry.send(pull).await.status(), 200);
    for path in [
        "/token?offline_token=true&scope=repository:open/app:pull",
        "/token?scope=repository:open/app:pull,push",
        "/token?scope=repository:team-a/app:pull",
        "/token?scope=registry:catalog:*",
        "/token",
    ] {
        // Whoever fails again and again has to wait.
        registry.advance(Duration::from_mins(10));
        assert_eq!(ask(path).await.status(), 401, "{path}: a wrong password is one");
    }
    registry.finish().await;
}

#[tokio::test]
async fn what_a_token_was_issued_for_is_decided_again_when_it_is_used() {
    let mut registry = secured(public()).await;
    let bob = bearer(&registry, Some("bob"), &["repository:open/app:pull"]).await;
    let pull = |token: &str| Call::get(&manifest_path("open/app", "v1")).header("authorization", token);
    assert_eq!(registry.send(pull(&bob)).await.status(), 200);
    let mut closed = public();
    closed.rules.push(super::rule(&["open/**"], &["user:alice"], &[entrepot::config::Allowed::Pull]));
    registry.reconfigure(|config| config.auth = Some(closed)).await;
    assert_eq!(registry.send(pull(&bob)).await.status(), 403, "another rule");
    let mut gone = public();
    gone.htpasswd.as_mut().unwrap().users.remove(1);
    registry.reconfigure(|config| config.auth = Some(gone)).await;
    assert_eq!(registry.send(pull(&bob)).await.status(), 401, "bob is no more");
    registry.finish().await;
}

#[tokio::test]
async fn a_mount_tells_which_token_it_takes_and_is_an_upload_for_who_may_not_see_the_source() {
    let registry = secured(auth()).await;
    let layer = digest_of(b"the layer of team a");
    let mount = format!("/v2/open/new/blobs/uploads/?mount={layer}&from=team-a/app");
    let with =
        async |token: &str| registry.send(Call::new("POST", &mount).body("").header("authorization", token)).await;
    let both = ",scope=\"repository:open/new:pull,push repository:team-a/app:pull\"";
    let nobody = registry.send(Call::new("POST", &mount).body("")).await;
    assert_eq!(nobody.status(), 401);
    assert!(challenge(&nobody).contains(both), "{}", challenge(&nobody));
    let alice = bearer(&registry, Some("alice"), &["repository:open/new:pull,push"]).await;
    let refused = with(&alice).await;
    assert_eq!(refused.status(), 401);
    assert!(challenge(&refused).ends_with(&format!("{both},error=\"insufficient_scope\"")), "{}", challenge(&refused));
    let alice = bearer(&registry, Some("alice"), &["repository:open/new:pull,push repository:team-a/app:pull"]).await;
    assert_eq!(with(&alice).await.status(), 201);
    let bob = bearer(&registry, Some("bob"), &["repository:open/new:pull,push repository:team-a/app:pull"]).await;
    let upload = with(&bob).await;
    assert_eq!(upload.status(), 202);
    let cancel = Call::new("DELETE", upload.header("location").unwrap()).header("authorization", &bob);
    assert_eq!(registry.send(cancel).await.status(), 204);
    registry.finish().await;
}

#[tokio::test]
async fn a_token_ends_with_the_password_or_the_robot_that_it_was_issued_for() {
    let mut registry = secured(public()).await;
    let pull = |token: &str| Call::get(&manifest_path("team-a/app", "v1")).header("authorization", token);
    let alice = bearer(&registry, Some("alice"), &["repository:team-a/app:pull"]).await;
    let as_robot = async |registry: &TestRegistry| {
        let (name, secret) = robot(registry, "ci", &["pull"], &["team-a/**"]).await;
        let call = Call::get("/token?scope=repository:team-a/app:pull");
        let answer = registry.send(call.header("authorization", &basic(&name, &secret))).await;
        format!("Bearer {}", answer.json()["token"].as_str().unwrap())
    };
    let leaked = as_robot(&registry).await;
    for token in [&alice, &leaked] {
        assert_eq!(registry.send(pull(token)).await.status(), 200);
    }
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/robots/ci")).await.status(), 204);
    let made_anew = as_robot(&registry).await;
    assert_eq!(registry.send(pull(&made_anew)).await.status(), 200);
    assert_eq!(registry.send(pull(&leaked)).await.status(), 401, "a robot of that name had it, and not this one");
    let mut changed = public();
    changed.htpasswd.as_mut().unwrap().users[0].password = bcrypt::hash("another", 4).unwrap().into();
    registry.reconfigure(|config| config.auth = Some(changed)).await;
    assert_eq!(registry.send(pull(&alice)).await.status(), 401, "alice had another password then");
    registry.finish().await;
}

#[tokio::test]
async fn what_a_token_cannot_say_is_not_issued() {
    let registry = secured(public()).await;
    let scope = |number: usize| format!("repository:open/{number}{}:pull", "x".repeat(200));
    let scopes: Vec<String> = (0..40).map(scope).collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let refused = ask_token(&registry, None, &scopes).await;
    assert_eq!(refused.status(), 400, "{:?}", refused.body);
    assert!(refused.message().contains("fewer repositories"), "{}", refused.message());
    let token = bearer(&registry, None, &scopes[..10]).await;
    let list = Call::get("/v2/").header("authorization", &token);
    assert_eq!(registry.send(list).await.status(), 200, "what is issued counts");
    registry.finish().await;
}
