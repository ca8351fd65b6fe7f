//! Who may do what, over HTTP: the defaults, rules, passwords, tokens, robots; every route against every kind of caller.

mod attacks;
mod certificates;
mod commands;
mod issuers;
mod matrix;
mod oidc;
mod rules;
mod token_server;
mod tokens;
mod trail;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use entrepot::config::{AccessRule, Account, Allowed, Anonymous, Auth, Htpasswd};
use serde_json::{Value, json};

use crate::support::client::{Answer, Call};
use crate::support::push::push_image;
use crate::support::registry::TestRegistry;

/// What nobody can guess, and everybody here knows.
const PASSWORD: &str = "correct horse";
/// One for all, since with another hash a password is another one.
static HASH: LazyLock<String> = LazyLock::new(|| bcrypt::hash(PASSWORD, 4).expect("a password can be hashed"));

/// alice is of team-a, bob of nothing, root an administrator; whoever has signed in may do everything where no rule is.
fn auth() -> Auth {
    let user = |name: &str| Account { name: name.to_owned(), password: HASH.as_str().into() };
    Auth {
        htpasswd: Some(Htpasswd { file: "htpasswd".into(), users: ["alice", "bob", "root"].map(user).into() }),
        groups: BTreeMap::from([("team-a".to_owned(), vec!["alice".to_owned()])]),
        admins: vec!["user:root".parse().expect("root is somebody")],
        rules: vec![rule(&["team-a/**"], &["group:team-a"], &[Allowed::Pull, Allowed::Push, Allowed::Delete])],
        ..Auth::default()
    }
}

fn public() -> Auth {
    Auth { anonymous: Anonymous::Pull, ..auth() }
}

fn rule(repositories: &[&str], identities: &[&str], allow: &[Allowed]) -> AccessRule {
    AccessRule {
        repositories: repositories.iter().map(|pattern| (*pattern).to_owned()).collect(),
        identities: identities.iter().map(|who| who.parse().expect("the rule is about somebody")).collect(),
        allow: allow.to_vec(),
        immutable: Vec::new(),
    }
}

/// A registry with an image in `team-a/app` and one in `open/app`, both tagged `v1`, that lets in whom `auth` says.
async fn secured(auth: Auth) -> TestRegistry {
    let mut registry = TestRegistry::builder().start().await;
    push_image(&registry, "team-a/app", "v1", b"the layer of team a").await;
    push_image(&registry, "open/app", "v1", b"the open layer").await;
    registry.reconfigure(|config| config.auth = Some(auth)).await;
    registry
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
}

fn as_user(call: Call, name: &str) -> Call {
    call.header("authorization", &basic(name, PASSWORD))
}

/// Asks for a token as `name`, or as nobody.
async fn ask_token(registry: &TestRegistry, name: Option<&str>, scopes: &[&str]) -> Answer {
    let scopes =
        scopes.iter().map(|scope| format!("&scope={}", scope.replace(' ', "%20"))).collect::<Vec<_>>().concat();
    let call = Call::get(&format!("/token?service=entrepot{scopes}"));
    registry.send(if let Some(name) = name { as_user(call, name) } else { call }).await
}

/// `Bearer …` for these scopes.
async fn bearer(registry: &TestRegistry, name: Option<&str>, scopes: &[&str]) -> String {
    let answer = ask_token(registry, name, scopes).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body);
    format!("Bearer {}", answer.json()["token"].as_str().expect("there is a token"))
}

/// A new robot's user name and token.
async fn robot(registry: &TestRegistry, name: &str, allow: &[&str], repositories: &[&str]) -> (String, String) {
    let wanted = json!({ "name": name, "allow": allow, "repositories": repositories }).to_string();
    let made = registry.send(Call::new("POST", "/api/v1/robots").body(wanted)).await;
    assert_eq!(made.status(), 201, "{:?}", made.body);
    let made: Value = made.json();
    let text = |key: &str| made[key].as_str().expect("a robot has a name and a token").to_owned();
    (text("username"), text("token"))
}
