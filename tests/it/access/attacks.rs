//! What somebody tries who is not let in: confused paths, doubled and senseless headers, guesses, secrets of another kind.

use super::{PASSWORD, as_user, auth, basic, bearer, public, secured};
use crate::support::client::Call;
use crate::support::raw::Raw;
use crate::support::registry::manifest_path;

#[tokio::test]
async fn path_confusion_leads_nowhere() {
    let registry = secured(public()).await;
    let token = bearer(&registry, None, &["repository:open/app:pull"]).await;
    for path in [
        "/v2/open/app/../../team-a/app/manifests/v1",
        "/v2/open/../team-a/app/manifests/v1",
        "/v2/./team-a/app/manifests/v1",
        "/v2//team-a/app/manifests/v1",
        "/v2/team-a//app/manifests/v1",
        "/v2/team-a%2fapp/manifests/v1",
        "/v2/team-a%2Fapp/manifests/v1",
        "/v2/%74eam-a/app/manifests/v1",
        "/v2/open%2f..%2fteam-a/app/manifests/v1",
        "/v2/open/app/%2e%2e/%2e%2e/team-a/app/manifests/v1",
        "/v2/Team-A/app/manifests/v1",
        "/v2/TEAM-A/app/manifests/v1",
        "/v2/TEAM-A/APP/manifests/v1",
        "/v2/team-a/app%00/manifests/v1",
        "/v2/team-a/app;x/manifests/v1",
        "/v2/team-a\\app/manifests/v1",
        "/V2/team-a/app/manifests/v1",
        "/v2/team-a/app/Manifests/v1",
        "/v2/team-a/app/manifests/v1/",
    ] {
        for call in [Call::get(path), Call::get(path).header("authorization", &token)] {
            let status = registry.send(call).await.status();
            assert!((400..500).contains(&status), "{path}: {status}");
        }
    }
    let cased = registry.get("/v2/TEAM-A/app/manifests/v1").await;
    assert_eq!(cased.status(), 401, "a rule holds whatever the case of the name's letters");
    let elsewhere = "/v2/open/app/manifests/v1?ns=none.example";
    assert_eq!(registry.get(elsewhere).await.status(), 404, "nobody's business");
    registry.finish().await;
}

#[tokio::test]
async fn two_authorization_headers_are_none() {
    let registry = secured(public()).await;
    let path = manifest_path("open/app", "v1");
    let (alice, nobody) = (basic("alice", PASSWORD), "Basic Og==".to_owned());
    for (one, other) in [(&alice, &alice), (&alice, &nobody), (&nobody, &alice)] {
        let head = format!("authorization: {one}\r\nauthorization: {other}\r\n");
        let answer = Raw::begin(registry.address(), "GET", &path, &head).await.answer("GET").await;
        assert_eq!(answer.status(), 401, "{one} and {other}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn headers_that_make_no_sense_let_nobody_in() {
    let registry = secured(public()).await;
    let token = bearer(&registry, Some("alice"), &["repository:team-a/app:pull"]).await;
    let bare = token.trim_start_matches("Bearer ");
    let overlong = format!("Bearer {}", "x".repeat(20_000));
    for header in [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YWxpY2U=",
        "Bearer",
        "Bearer x",
        "Bearer ..",
        "Digest username=\"alice\"",
        "Negotiate abc",
        &overlong,
        &format!("Basic {bare}"),
        &format!("Bearer {bare} {bare}"),
        &format!("Bearer {bare}, Basic Og=="),
        &format!("Bearer {}", basic("alice", PASSWORD).trim_start_matches("Basic ")),
        bare,
    ] {
        for path in [manifest_path("open/app", "v1"), manifest_path("team-a/app", "v1"), "/v2/".to_owned()] {
            let answer = registry.send(Call::get(&path).header("authorization", header)).await;
            assert_eq!(answer.status(), 401, "{path} with {header:.40}");
            assert!(answer.header("www-authenticate").is_some(), "{path} with {header:.40}");
        }
    }
    let lower_case = Call::get(&manifest_path("team-a/app", "v1")).header("authorization", &format!("bearer {bare}"));
    assert_eq!(registry.send(lower_case).await.status(), 200, "a scheme is read in any case of letters");
    registry.finish().await;
}

#[tokio::test]
async fn one_kind_of_secret_does_not_pass_for_another() {
    let registry = secured(auth()).await;
    let login = as_user(Call::get("/token?offline_token=true"), "alice");
    let json = registry.send(login).await.json();
    let (access, refresh) = (json["token"].as_str().unwrap(), json["refresh_token"].as_str().unwrap());
    let post = |form: String| registry.send(Call::new("POST", "/token").body(form));
    assert_eq!(post(format!("grant_type=refresh_token&refresh_token={access}")).await.status(), 401);
    assert_eq!(post(format!("grant_type=password&username=alice&password={refresh}")).await.status(), 401);
    for header in [format!("Bearer {refresh}"), basic("alice", refresh), basic("robot+ci", refresh)] {
        assert_eq!(registry.send(Call::get("/v2/").header("authorization", &header)).await.status(), 401);
    }
    let by_token =
        Call::get("/token?scope=repository:open/app:push").header("authorization", &format!("Bearer {access}"));
    assert_eq!(registry.send(by_token).await.status(), 401, "a token gets nobody another one");
    assert_eq!(
        post(format!("grant_type=refresh_token&refresh_token={}x", &refresh[..refresh.len() - 1])).await.status(),
        401
    );
    registry.finish().await;
}

#[tokio::test]
async fn who_guesses_has_to_wait() {
    let registry = secured(auth()).await;
    let guess = |n: usize| Call::get("/v2/").header("authorization", &basic("alice", &format!("guess {n}")));
    for n in 0..5 {
        assert_eq!(registry.send(guess(n)).await.status(), 401);
    }
    let refused = registry.send(guess(5)).await;
    assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")));
    let token = registry.send(Call::get("/token").header("authorization", &basic("alice", "guess"))).await;
    assert_eq!(token.status(), 429, "there is no second door");
    assert_eq!(registry.send(as_user(Call::get("/v2/"), "bob")).await.status(), 200, "others are not locked out");
    registry.advance(std::time::Duration::from_secs(1));
    assert_eq!(registry.send(as_user(Call::get("/v2/"), "alice")).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_foreign_page_gets_no_token_and_locks_nobody_out() {
    let mut registry = secured(auth()).await;
    let form = |password: &str| format!("grant_type=password&username=alice&password={password}&access_type=offline");
    let by_post = |password: &str| Call::new("POST", "/token").body(form(password));
    for (header, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let by_get = as_user(Call::get("/token?offline_token=true&scope=repository:team-a/app:push"), "alice");
        for call in [by_get, by_post("correct%20horse"), by_post("guess"), by_post("another guess")] {
            let refused = registry.send(call.header(header, value)).await;
            assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"), "with {header}: {value}");
            assert!(refused.message().contains("http.cors_origins"), "{}", refused.message());
        }
    }
    let own = format!("http://{}", registry.address());
    let from_ours = by_post("correct%20horse").header("origin", &own).header("sec-fetch-site", "same-origin");
    assert_eq!(registry.send(from_ours).await.status(), 200, "the page's guesses are not alice's");
    registry.reconfigure(|config| config.http.cors_origins = vec!["*".into(), "https://ui.example".into()]).await;
    let from = |origin: &str| by_post("correct%20horse").header("origin", origin);
    assert_eq!(registry.send(from("https://ui.example")).await.status(), 200);
    assert_eq!(registry.send(from("https://other.example")).await.status(), 403, "`*` lets pages read");
    registry.finish().await;
}

#[tokio::test]
async fn a_host_header_cannot_break_out_of_the_challenge() {
    let registry = secured(auth()).await;
    for host in ["evil\",error=\"x", "a b", "a/b@c", "a\\b"] {
        let mut raw = Raw::to(registry.address()).await;
        raw.write(format!("GET /v2/ HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let answer = raw.answer("GET").await;
        if answer.status() == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"entrepot\""), "{host}");
        } else {
            assert_eq!(answer.status(), 400, "{host}");
        }
    }
    registry.finish().await;
}
