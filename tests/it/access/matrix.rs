//! Every route and method against every kind of caller. A route that is added without its row does not compile, or fails here.

use std::time::Duration;

use entrepot::config::CertificateName;
use entrepot::http::admin;
use entrepot::http::route::{Action, route};
use http::Method;

use super::oidc::{self, with_providers};
use super::token_server::{self, with_token_server};
use super::{PASSWORD, as_user, basic, bearer, certificates, public, robot, secured};
use crate::support::client::Call;
use crate::support::issuer::FakeIssuer;
use crate::support::push::digest_of;
use crate::support::registry::TestRegistry;
use crate::support::signer::Signer;
use crate::tls::url;

/// What a route takes, as it should be: written here a second time on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// A password or a token, whatever for.
    Presence,
    /// Nobody in particular may; a token must be for it.
    List,
    Pull,
    Push,
    Delete,
}

/// A request for each action, in a repository of team-a, and what it takes.
fn rows() -> Vec<(&'static str, String, Takes)> {
    let digest = digest_of(b"the layer of team a");
    let id = "00000000-0000-4000-8000-000000000000";
    let at = |rest: String| format!("/v2/team-a/app/{rest}");
    vec![
        ("GET", "/v2/".to_owned(), Takes::Presence),
        ("HEAD", "/v2/".to_owned(), Takes::Presence),
        ("GET", "/v2".to_owned(), Takes::Presence),
        ("GET", "/v2/_catalog".to_owned(), Takes::List),
        ("HEAD", "/v2/_catalog".to_owned(), Takes::List),
        ("GET", at("tags/list".to_owned()), Takes::Pull),
        ("HEAD", at("tags/list".to_owned()), Takes::Pull),
        ("GET", at("manifests/v1".to_owned()), Takes::Pull),
        ("HEAD", at("manifests/v1".to_owned()), Takes::Pull),
        ("PUT", at("manifests/new".to_owned()), Takes::Push),
        ("DELETE", at("manifests/none".to_owned()), Takes::Delete),
        ("GET", at(format!("blobs/{digest}")), Takes::Pull),
        ("HEAD", at(format!("blobs/{digest}")), Takes::Pull),
        ("DELETE", at(format!("blobs/{}", digest_of(b"none"))), Takes::Delete),
        ("POST", at("blobs/uploads/?digest=none".to_owned()), Takes::Push),
        ("POST", at("blobs/uploads?digest=none".to_owned()), Takes::Push),
        ("GET", at(format!("blobs/uploads/{id}")), Takes::Push),
        ("PATCH", at(format!("blobs/uploads/{id}")), Takes::Push),
        ("PUT", at(format!("blobs/uploads/{id}?digest={digest}")), Takes::Push),
        ("DELETE", at(format!("blobs/uploads/{id}")), Takes::Push),
        ("GET", at(format!("referrers/{digest}")), Takes::Pull),
        ("HEAD", at(format!("referrers/{digest}")), Takes::Pull),
    ]
}

/// The number of an action: a new one does not compile here until it has one, and [`rows`] has its request.
const fn number(action: &Action) -> usize {
    match action {
        Action::Probe => 0,
        Action::ListRepositories => 1,
        Action::ListTags { .. } => 2,
        Action::PullManifest { .. } => 3,
        Action::PushManifest { .. } => 4,
        Action::DeleteManifest { .. } => 5,
        Action::PullBlob { .. } => 6,
        Action::DeleteBlob { .. } => 7,
        Action::StartUpload { .. } => 8,
        Action::FindUpload { .. } => 9,
        Action::AppendUpload { .. } => 10,
        Action::FinishUpload { .. } => 11,
        Action::CancelUpload { .. } => 12,
        Action::ListReferrers { .. } => 13,
    }
}

const ACTIONS: usize = 14;

#[test]
fn every_action_has_its_row() {
    let mut seen: Vec<usize> = rows()
        .iter()
        .map(|(method, path, _)| {
            let path = path.split('?').next().unwrap();
            number(
                &route(&Method::from_bytes(method.as_bytes()).unwrap(), path).unwrap_or_else(|e| panic!("{path}: {e}")),
            )
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..ACTIONS).collect::<Vec<_>>());
}

/// What a caller may, of what [`Takes`] lists: in, out with a challenge, or out for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    In,
    Challenged,
    Denied,
}

use Answer::{Challenged, Denied, In};

/// A caller, its header, and the answers for presence, list, pull, push, delete.
type Caller = (&'static str, Option<String>, [Answer; 5]);

/// Answers are read off the outside: 401, 403, and everything else is past the gate.
fn answer_of(status: u16) -> Answer {
    match status {
        401 => Challenged,
        403 => Denied,
        _ => In,
    }
}

async fn callers(registry: &TestRegistry) -> Vec<Caller> {
    let everything = "repository:team-a/app:pull,push,delete";
    let token = async |name: Option<&str>, scope: &str| Some(bearer(registry, name, &[scope]).await);
    let expired = token(Some("alice"), everything).await;
    registry.advance(Duration::from_mins(6));
    let (robot_name, robot_secret) = robot(registry, "ci", &["pull", "push"], &["team-a/app"]).await;
    let (gone_name, gone_secret) = robot(registry, "gone", &["pull", "push"], &["team-a/app"]).await;
    let as_gone = Call::get("/token?scope=repository:team-a/app:pull,push")
        .header("authorization", &basic(&gone_name, &gone_secret));
    let gone_token = registry.send(as_gone).await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(registry.send(Call::new("DELETE", "/api/v1/robots/gone")).await.status(), 204);
    let all_out = [Challenged; 5];
    vec![
        ("nobody", None, [Challenged, In, Challenged, Challenged, Challenged]),
        ("podman's nobody", Some("Basic Og==".to_owned()), [Challenged, In, Challenged, Challenged, Challenged]),
        ("nobody's token", token(None, everything).await, [In, Challenged, Challenged, Challenged, Challenged]),
        ("nonsense", Some("Bearer nonsense".to_owned()), all_out),
        ("expired token", expired, all_out),
        ("right password", Some(basic("alice", PASSWORD)), [In; 5]),
        ("another user", Some(basic("bob", PASSWORD)), [In, In, Denied, Denied, Denied]),
        ("another user's token", token(Some("bob"), everything).await, [In, Challenged, Denied, Denied, Denied]),
        ("right scope", token(Some("alice"), everything).await, [In, Challenged, In, In, In]),
        (
            "scope to pull",
            token(Some("alice"), "repository:team-a/app:pull").await,
            [In, Challenged, In, Challenged, Challenged],
        ),
        (
            "scope to push",
            token(Some("alice"), "repository:team-a/app:push").await,
            [In, Challenged, Challenged, In, Challenged],
        ),
        (
            "scope to list",
            token(Some("alice"), "registry:catalog:*").await,
            [In, In, Challenged, Challenged, Challenged],
        ),
        (
            "no scope",
            Some(bearer(registry, Some("alice"), &[]).await),
            [In, Challenged, Challenged, Challenged, Challenged],
        ),
        (
            "another repository",
            token(Some("alice"), "repository:team-a/other:*").await,
            [In, Challenged, Challenged, Challenged, Challenged],
        ),
        (
            "a name with a longer one",
            token(Some("alice"), "repository:team-a/app/x:*").await,
            [In, Challenged, Challenged, Challenged, Challenged],
        ),
        ("robot", Some(basic(&robot_name, &robot_secret)), [In, In, In, In, Denied]),
        ("robot revoked", Some(basic(&gone_name, &gone_secret)), all_out),
        ("token of a robot revoked", Some(format!("Bearer {gone_token}")), all_out),
        ("wrong password", Some(basic("alice", "guess")), all_out),
        ("unknown user", Some(basic("mallory", PASSWORD)), all_out),
    ]
}

fn all_wrong(caller: &str) -> bool {
    ["wrong password", "unknown user"].contains(&caller)
}

/// Sends every row as each caller, by `ask`, which tells the status and whether there is a challenge.
async fn hold(callers: Vec<Caller>, ask: impl AsyncFn(&Caller, &'static str, &str) -> (u16, bool)) {
    let mut wrong = Vec::new();
    for caller in callers {
        let (name, _, answers) = &caller;
        for (method, path, takes) in rows() {
            let (status, is_challenged) = ask(&caller, method, &path).await;
            let (found, expected) = (answer_of(status), answers[takes as usize]);
            if found != expected {
                wrong.push(format!("{name}: {method} {path} is {found:?} ({status}), not {expected:?}"));
            }
            if (found == Challenged) != is_challenged {
                wrong.push(format!("{name}: {method} {path} is {found:?}, challenge {is_challenged}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Over plain HTTP, where the header says who sends it.
async fn ask(registry: &TestRegistry, caller: &Caller, method: &str, path: &str) -> (u16, bool) {
    let (name, header, _) = caller;
    if all_wrong(name) {
        // Whoever fails again and again has to wait.
        registry.advance(Duration::from_mins(10));
    }
    let call = Call::new(method, path).body("");
    let call = if let Some(header) = header { call.header("authorization", header) } else { call };
    let answer = registry.send(call).await;
    (answer.status(), answer.header("www-authenticate").is_some())
}

#[tokio::test]
async fn every_route_answers_every_kind_of_caller_as_it_should() {
    let registry = secured(public()).await;
    hold(callers(&registry).await, async |caller, method, path| ask(&registry, caller, method, path).await).await;
    registry.finish().await;
}

#[tokio::test]
async fn every_route_answers_jobs_as_it_should() {
    let signer = Signer::new("ES256", "one");
    let issuer = FakeIssuer::start(&[&signer]).await;
    let registry = secured(with_providers(public(), &[("ci", oidc::provider(&issuer))])).await;
    let right = oidc::claims(&registry, &issuer);
    let with = |name: &str, value: &str| {
        let mut claims = right.clone();
        claims[name] = value.into();
        signer.token(&claims)
    };
    let (token, all_out) = (signer.token(&right), [Challenged; 5]);
    let scope = "/token?scope=repository:team-a/app:pull";
    let issued = registry.send(Call::get(scope).header("authorization", &basic("ci", &token))).await.json();
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let rows = vec![
        ("a job", bearer(&token), [In; 5]),
        ("a job as a user", Some(basic("ci", &token)), [In; 5]),
        (
            "a job's scope to pull",
            bearer(issued["token"].as_str().unwrap()),
            [In, Challenged, In, Challenged, Challenged],
        ),
        ("a job of whom no rule speaks", bearer(&with("sub", "repo:other/app")), [In, In, Denied, Denied, Denied]),
        ("a job for another audience", bearer(&with("aud", "other")), all_out),
        ("a job for another audience as a user", Some(basic("ci", &with("aud", "other"))), all_out),
        ("somebody else's job", bearer(&with("repository_owner", "other")), all_out),
        ("another issuer's job", bearer(&with("iss", "https://other.example")), all_out),
    ];
    hold(rows, async |caller, method, path| ask(&registry, caller, method, path).await).await;
    registry.finish().await;
}

#[tokio::test]
async fn every_route_answers_certificates_as_it_should() {
    let (registry, pair) =
        certificates::asking(certificates::with_certificates(public(), CertificateName::CommonName)).await;
    let rows = vec![
        ("node-1", None, [Challenged, In, In, In, Challenged]),
        ("laptop", None, [Challenged, In, Challenged, Challenged, Challenged]),
        ("node-1", Some(basic("bob", PASSWORD)), [In, In, Denied, Denied, Denied]),
        ("node-1", Some(basic("alice", PASSWORD)), [In, In, In, In, Denied]),
        ("node-1", Some("Bearer nonsense".to_owned()), [Challenged; 5]),
    ];
    let with = |name| certificates::client(&pair, &registry, Some(pair.authority.identity_of(name, &[])));
    let clients = ["node-1", "laptop"].map(|name| (name, with(name)));
    hold(rows, async |(name, header, _), method, path| {
        let (_, client) = clients.iter().find(|(of, _)| of == name).unwrap();
        let request = client.request(method.parse().unwrap(), url(&registry, path)).body("");
        let request = if let Some(header) = header { request.header("authorization", header) } else { request };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("www-authenticate"))
    })
    .await;
    registry.finish().await;
}

#[tokio::test]
async fn every_route_answers_tokens_of_another_server_as_it_should() {
    let signer = Signer::new("ES256", "one");
    let registry = secured(with_token_server(&signer)).await;
    let token = |actions: &[&str], change: &[(&str, &str)]| {
        let mut claims = token_server::claims(&registry, actions);
        for (name, value) in change {
            claims[*name] = (*value).into();
        }
        Some(format!("Bearer {}", signer.token(&claims)))
    };
    let all_out = [Challenged; 5];
    let rows = vec![
        ("nobody", None, all_out),
        ("right scope", token(&["*"], &[]), [In, Challenged, In, In, In]),
        ("scope to pull", token(&["pull"], &[]), [In, Challenged, In, Challenged, Challenged]),
        ("wrong scope", token(&["fly"], &[]), [In, Challenged, Challenged, Challenged, Challenged]),
        ("another user", token(&["*"], &[("sub", "bob")]), [In, Challenged, Denied, Denied, Denied]),
        ("nobody's token", token(&["*"], &[("sub", "")]), [In, Challenged, Challenged, Challenged, Challenged]),
        ("another service", token(&["*"], &[("aud", "other")]), all_out),
        ("another issuer", token(&["*"], &[("iss", "other")]), all_out),
    ];
    hold(rows, async |caller, method, path| ask(&registry, caller, method, path).await).await;
    registry.finish().await;
}

/// The admin API: a request for each action.
fn admin_rows() -> Vec<(&'static str, &'static str)> {
    let path = |action: &admin::Action| match action {
        admin::Action::ListFills => ("GET", "/api/v1/fills"),
        admin::Action::Explain => ("GET", "/api/v1/why?ref=team-a/app:v1"),
        admin::Action::ShowScrub => ("GET", "/api/v1/scrub"),
        admin::Action::ImportBlob => ("PUT", "/api/v1/cached/blob"),
        admin::Action::ImportLink => ("PUT", "/api/v1/cached/link"),
        admin::Action::ImportManifest => ("PUT", "/api/v1/cached/manifest"),
        admin::Action::Warm => ("POST", "/api/v1/warm"),
        admin::Action::ListPins => ("GET", "/api/v1/pins"),
        admin::Action::Pin => ("PUT", "/api/v1/pins"),
        admin::Action::Unpin => ("DELETE", "/api/v1/pins"),
        admin::Action::ListContent => ("GET", "/api/v1/content"),
        admin::Action::RemoveContent => ("DELETE", "/api/v1/content"),
        admin::Action::PlanRetention => ("GET", "/api/v1/retention"),
        admin::Action::ApplyRetention => ("PUT", "/api/v1/retention"),
        admin::Action::Sweep => ("POST", "/api/v1/gc?dry_run=true"),
        admin::Action::ListRobots => ("GET", "/api/v1/robots"),
        admin::Action::CreateRobot => ("POST", "/api/v1/robots"),
        admin::Action::RevokeRobot { .. } => ("DELETE", "/api/v1/robots/none"),
    };
    [
        admin::Action::ListFills,
        admin::Action::Explain,
        admin::Action::ShowScrub,
        admin::Action::ImportBlob,
        admin::Action::ImportLink,
        admin::Action::ImportManifest,
        admin::Action::Warm,
        admin::Action::ListPins,
        admin::Action::Pin,
        admin::Action::Unpin,
        admin::Action::ListContent,
        admin::Action::RemoveContent,
        admin::Action::PlanRetention,
        admin::Action::ApplyRetention,
        admin::Action::Sweep,
        admin::Action::ListRobots,
        admin::Action::CreateRobot,
        admin::Action::RevokeRobot { name: "none".to_owned() },
    ]
    .iter()
    .map(path)
    .collect()
}

#[tokio::test]
async fn the_admin_api_answers_every_kind_of_caller_as_it_should() {
    let registry = secured(public()).await;
    let admins_token = bearer(&registry, Some("root"), &["repository:team-a/app:*", "registry:catalog:*"]).await;
    for (method, path) in admin_rows() {
        for (caller, header, expected) in [
            ("nobody", None, Challenged),
            ("wrong password", Some(basic("root", "guess")), Challenged),
            ("a user", Some(basic("alice", PASSWORD)), Denied),
            ("an administrator", Some(basic("root", PASSWORD)), In),
            ("an administrator's token", Some(admins_token.clone()), Denied),
        ] {
            let call = Call::new(method, path).body("").header("x-forwarded-for", "203.0.113.7");
            let call = if let Some(header) = header { call.header("authorization", &header) } else { call };
            let status = registry.send(call).await.status();
            // A sixth wrong password has to wait, which is no way in either.
            let found = if status == 429 { Challenged } else { answer_of(status) };
            assert_eq!(found, expected, "{caller}: {method} {path} ({status})");
        }
    }
    registry.finish().await;
}

/// What else there is, and that nobody has to sign in for it: none of it tells of repositories.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

#[tokio::test]
async fn every_path_of_the_router_has_its_rows() {
    let source = include_str!("../../../src/http/mod.rs");
    let mut paths: Vec<&str> =
        source.lines().filter_map(|line| line.split(".route(\"").nth(1)?.split('"').next()).collect();
    paths.sort_unstable();
    let mut known = vec!["/api/{*rest}", "/token"];
    known.extend(OPEN);
    known.sort_unstable();
    assert_eq!(paths, known, "left: the router, right: what is tested here");
    let around = source.matches("is_below(").count();
    assert_eq!(around, 1, "what is below /v2/ goes around the router, by its own table of routes; nothing else may");
    let registry = secured(public()).await;
    for path in OPEN {
        let answer = registry.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("team-a"), "{path} tells of repositories");
    }
    registry.finish().await;
}

#[tokio::test]
async fn methods_that_a_route_does_not_take_say_nothing_about_what_is_there() {
    let registry = secured(public()).await;
    for (_, path, _) in rows() {
        for method in ["OPTIONS", "TRACE", "PROPFIND"] {
            let call = || Call::new(method, &path).body("");
            let (nobody, alice) = (registry.send(call()).await, registry.send(as_user(call(), "alice")).await);
            assert_eq!((nobody.status(), nobody.body), (alice.status(), alice.body), "{method} {path}");
        }
    }
    registry.finish().await;
}
