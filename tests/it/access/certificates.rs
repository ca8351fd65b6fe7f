//! Clients whose certificate is who they are: with it alone, beside something better, and behind somebody else.

use entrepot::config::{Allowed, Auth, CertificateName, ClientCertificates};
use rcgen::SanType;
use reqwest::{Client, Method};
use serde_json::Value;

use super::{auth, basic, rule};
use crate::support::push::{IMAGE, digest_of, image};
use crate::support::registry::{TestRegistry, manifest_path};
use crate::tls::{NAME, Pair, url};

/// `auth` where certificates are who has them, and those of nodes may pull and push in `team-a/`.
pub fn with_certificates(auth: Auth, name: CertificateName) -> Auth {
    let rules = vec![rule(&["team-a/**"], &["group:team-a", "cert:node-*"], &[Allowed::Pull, Allowed::Push])];
    Auth { certificates: Some(name), rules, ..auth }
}

/// A registry that asks for certificates, and the authority of these.
pub async fn asking(auth: Auth) -> (TestRegistry, Pair) {
    let pair = Pair::new();
    let registry =
        pair.asking_for_certificates(ClientCertificates::Request).config(|config| config.auth = Some(auth)).start();
    (registry.await, pair)
}

/// A client that shows this certificate.
pub fn client(pair: &Pair, registry: &TestRegistry, identity: Option<(String, String)>) -> Client {
    let root = reqwest::Certificate::from_pem(pair.authority.pem.as_bytes()).unwrap();
    let builder = Client::builder().tls_certs_only([root]).resolve(NAME, registry.address()).no_proxy();
    let builder = match identity {
        Some((certificate, key)) => {
            builder.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap())
        }
        None => builder,
    };
    builder.build().unwrap()
}

fn node(pair: &Pair) -> (String, String) {
    pair.authority.identity_of("node-1", &[])
}

/// One request, with a header of who sends it if it says so. Status, challenge and body.
async fn ask(
    client: &Client,
    registry: &TestRegistry,
    method: Method,
    path: &str,
    authorization: Option<&str>,
) -> (u16, String, Value) {
    let request = client.request(method, url(registry, path));
    let request = if let Some(header) = authorization { request.header("authorization", header) } else { request };
    let answer = request.send().await.unwrap();
    let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, challenge.unwrap_or_default(), answer.json().await.unwrap_or_default())
}

fn message(body: &Value) -> &str {
    body["errors"][0]["message"].as_str().unwrap_or_default()
}

/// Pushes an image as containerd does, which asks `/v2/` nothing. The statuses of what it sent.
async fn push(client: &Client, registry: &TestRegistry, repository: &str) -> Vec<u16> {
    let (config, layer) = (b"{}".as_slice(), b"a layer of a node".as_slice());
    let mut statuses = Vec::new();
    for blob in [config, layer] {
        let digest = digest_of(blob);
        let begin = client.post(url(registry, &format!("/v2/{repository}/blobs/uploads/"))).send().await.unwrap();
        statuses.push(begin.status().as_u16());
        let Some(place) = begin.headers().get("location") else { continue };
        let place = format!("{}?digest={digest}", place.to_str().unwrap());
        let place = if place.starts_with('/') { url(registry, &place) } else { place };
        let end = client.put(place).body(blob).send().await.unwrap();
        statuses.push(end.status().as_u16());
    }
    let manifest = image(config, &[layer]).to_string();
    let put = client.put(url(registry, &manifest_path(repository, "v1"))).header("content-type", IMAGE).body(manifest);
    statuses.push(put.send().await.unwrap().status().as_u16());
    statuses
}

#[tokio::test]
async fn a_client_pushes_with_its_certificate_and_no_credentials() {
    let (registry, pair) = asking(with_certificates(auth(), CertificateName::CommonName)).await;
    let known = client(&pair, &registry, Some(node(&pair)));
    assert_eq!(push(&known, &registry, "team-a/app").await, [202, 201, 202, 201, 201]);
    let pulled = ask(&known, &registry, Method::GET, &manifest_path("team-a/app", "v1"), None).await;
    assert_eq!(pulled.0, 200);
    let nobody = client(&pair, &registry, None);
    assert_eq!(push(&nobody, &registry, "team-a/app").await, [401, 401, 401]);
    let other = client(&pair, &registry, Some(pair.authority.identity_of("laptop", &[])));
    assert_eq!(push(&other, &registry, "team-a/app").await, [401, 401, 401]);
    assert_eq!(push(&other, &registry, "open/app").await, [202, 201, 202, 201, 201], "it has signed in all the same");
    registry.finish().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_enough_is_told_how_to_log_in() {
    let (registry, pair) = asking(with_certificates(auth(), CertificateName::CommonName)).await;
    let known = client(&pair, &registry, Some(node(&pair)));
    let delete = manifest_path("team-a/app", "v1");
    let (status, challenge, body) = ask(&known, &registry, Method::DELETE, &delete, None).await;
    assert_eq!(status, 401);
    assert!(challenge.starts_with("Bearer realm=") && challenge.ends_with(":delete\""), "{challenge}");
    assert!(message(&body).contains("cert:node-1"), "{body}");
    let (status, challenge, _) = ask(&known, &registry, Method::GET, "/v2/", None).await;
    assert_eq!(status, 401, "docker learns here alone how to log in");
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_shown_comes_before_the_certificate_and_a_wrong_password_is_no_certificate() {
    let (registry, pair) = asking(with_certificates(auth(), CertificateName::CommonName)).await;
    let known = client(&pair, &registry, Some(node(&pair)));
    let path = manifest_path("team-a/app", "v1");
    let as_bob = basic("bob", super::PASSWORD);
    let (status, _, body) = ask(&known, &registry, Method::GET, &path, Some(&as_bob)).await;
    assert_eq!((status, message(&body).contains("user:bob")), (403, true), "{body}");
    for wrong in [basic("bob", "guess"), "Bearer nonsense".to_owned()] {
        assert_eq!(ask(&known, &registry, Method::GET, &path, Some(&wrong)).await.0, 401);
    }
    let podmans_nobody = ask(&known, &registry, Method::GET, &path, Some("Basic Og==")).await;
    assert_eq!(podmans_nobody.0, 404, "an empty name and password are nothing that is shown: past the gate");
    registry.finish().await;
}

#[tokio::test]
async fn a_token_for_a_certificate_counts_together_with_it_alone() {
    let (registry, pair) = asking(with_certificates(auth(), CertificateName::CommonName)).await;
    let (one, other) = (node(&pair), pair.authority.identity_of("node-2", &[]));
    let known = client(&pair, &registry, Some(one));
    let token = "/token?service=entrepot&scope=repository:team-a/app:pull,push,delete";
    let (status, _, body) = ask(&known, &registry, Method::GET, token, None).await;
    assert_eq!(status, 200);
    let bearer = format!("Bearer {}", body["token"].as_str().unwrap());
    let path = manifest_path("team-a/app", "v1");
    let get = |client: Client| {
        let (registry, path, bearer) = (&registry, path.clone(), bearer.clone());
        async move { ask(&client, registry, Method::GET, &path, Some(&bearer)).await.0 }
    };
    assert_eq!(get(known.clone()).await, 404, "past the gate, where there is nothing");
    assert_eq!(ask(&known, &registry, Method::GET, "/v2/", Some(&bearer)).await.0, 200, "docker without a password");
    assert_eq!(ask(&known, &registry, Method::DELETE, &path, Some(&bearer)).await.0, 403, "no rule says so");
    assert_eq!(get(client(&pair, &registry, Some(other))).await, 401, "of somebody else");
    assert_eq!(get(client(&pair, &registry, None)).await, 401, "copied");
    registry.finish().await;
}

#[tokio::test]
async fn the_configuration_says_which_name_counts_and_of_two_none_does() {
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let mut rules = with_certificates(auth(), CertificateName::Uri);
    rules.rules = vec![rule(&["team-a/**"], &["cert:spiffe://lan/*"], &[Allowed::Pull])];
    rules.groups.get_mut("team-a").unwrap().push("cert:node-9.lan".to_owned());
    let (mut registry, pair) = asking(rules.clone()).await;
    let path = manifest_path("team-a/app", "v1");
    let status = async |registry: &TestRegistry, common_name: &str, names: &[SanType]| {
        let client = client(&pair, registry, Some(pair.authority.identity_of(common_name, names)));
        ask(&client, registry, Method::GET, &path, None).await.0
    };
    assert_eq!(status(&registry, "spiffe://lan/a", &[]).await, 401, "the common name is another kind");
    assert_eq!(status(&registry, "x", &[uri("spiffe://lan/a"), dns("a.lan")]).await, 404, "past the gate");
    assert_eq!(status(&registry, "x", &[uri("spiffe://lan/a/b")]).await, 401, "one star is one part");
    assert_eq!(status(&registry, "x", &[uri("spiffe://lan/a"), uri("spiffe://lan/b")]).await, 401);
    let by_dns = Auth {
        certificates: Some(CertificateName::Dns),
        rules: vec![rule(&["team-a/**"], &["group:team-a"], &[Allowed::Pull])],
        ..rules
    };
    registry.reconfigure(|config| config.auth = Some(by_dns)).await;
    assert_eq!(status(&registry, "node-9.lan", &[dns("node-8.lan")]).await, 401);
    assert_eq!(status(&registry, "x", &[dns("node-9.lan")]).await, 404, "it is in the group: past the gate");
    registry.finish().await;
}

#[tokio::test]
async fn a_certificate_is_nobody_where_the_configuration_does_not_say_so() {
    let rules = Auth { certificates: None, ..with_certificates(auth(), CertificateName::CommonName) };
    let (registry, pair) = asking(rules).await;
    let known = client(&pair, &registry, Some(node(&pair)));
    assert_eq!(push(&known, &registry, "team-a/app").await, [401, 401, 401]);
    assert_eq!(push(&known, &registry, "open/app").await, [401, 401, 401]);
    registry.finish().await;
}

#[tokio::test]
async fn the_certificate_of_a_proxy_is_not_that_of_those_it_speaks_for() {
    let (mut registry, pair) = asking(with_certificates(auth(), CertificateName::CommonName)).await;
    registry.reconfigure(|config| config.http.trusted_proxies = config.http.admin_from.clone()).await;
    let known = client(&pair, &registry, Some(node(&pair)));
    let path = url(&registry, &manifest_path("team-a/app", "v1"));
    for forwarded in [None, Some("203.0.113.7")] {
        let request = known.get(&path);
        let request = if let Some(by) = forwarded { request.header("x-forwarded-for", by) } else { request };
        assert_eq!(request.send().await.unwrap().status(), 401, "{forwarded:?}");
    }
    registry.finish().await;
}
