//! What is attached to a manifest: listed at once, filtered, a page at a time, gone when it is deleted.

use std::collections::BTreeSet;

use bytes::Bytes;
use entrepot::oci::Digest;
use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::push::{IMAGE, INDEX, assert_refused, descriptor, digest_of, image};
use crate::support::registry::TestRegistry;

const SUBJECT: &[u8] = b"the subject";

/// Pushes something attached to [`SUBJECT`]. Returns its digest.
async fn attach(registry: &TestRegistry, change: impl FnOnce(&mut Value)) -> Digest {
    let mut manifest = image(b"{}", &[]);
    manifest["subject"] = descriptor(IMAGE, SUBJECT);
    change(&mut manifest);
    let bytes = Bytes::from(manifest.to_string());
    let digest = digest_of(&bytes);
    let media_type = manifest["mediaType"].as_str().unwrap();
    let answer = registry.push_manifest("app", &digest.to_string(), media_type, bytes).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.body);
    assert_eq!(answer.header("oci-subject"), Some(digest_of(SUBJECT).to_string().as_str()));
    digest
}

fn path() -> String {
    format!("/v2/app/referrers/{}", digest_of(SUBJECT))
}

async fn started() -> TestRegistry {
    let registry = TestRegistry::builder().start().await;
    registry.push_blob("app", "{}").await;
    registry
}

#[tokio::test]
async fn nothing_attached_is_an_empty_index_and_never_a_404() {
    let registry = TestRegistry::builder().start().await;
    let answer = registry.get(&path()).await;
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some(INDEX)));
    assert_eq!(answer.json(), json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
    registry.finish().await;
}

#[tokio::test]
async fn a_referrer_is_listed_with_all_that_describes_it() {
    let registry = started().await;
    let config_type = "application/vnd.example.config";
    let plain = attach(&registry, |m| m["config"]["mediaType"] = json!(config_type)).await;
    let typed = attach(&registry, |m| {
        m["artifactType"] = json!("application/vnd.example.sbom");
        m["annotations"] = json!({ "made.by": "a \u{fc}ser", "when": "now" });
    })
    .await;
    let index = attach(&registry, |m| {
        let subject = m["subject"].clone();
        *m = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject });
        m["artifactType"] = json!("application/vnd.example.set");
    })
    .await;
    let listed = registry.get(&path()).await.json();
    let entry = |digest: &Digest| {
        let entries = listed["manifests"].as_array().unwrap();
        let mut found = entries.iter().filter(|entry| entry["digest"] == digest.to_string());
        let entry = found.next().unwrap_or_else(|| panic!("{digest} is not in {listed}")).clone();
        assert!(entry["size"].as_u64().is_some_and(|size| size > 100));
        entry
    };
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(entry(&plain)["artifactType"], config_type);
    assert_eq!(entry(&plain)["mediaType"], IMAGE);
    assert_eq!(entry(&typed)["artifactType"], "application/vnd.example.sbom");
    assert_eq!(entry(&typed)["annotations"], json!({ "made.by": "a \u{fc}ser", "when": "now" }));
    assert_eq!(
        (&entry(&index)["mediaType"], &entry(&index)["artifactType"]),
        (&json!(INDEX), &json!("application/vnd.example.set"))
    );
    registry.finish().await;
}

#[tokio::test]
async fn a_filter_is_applied_and_told() {
    let registry = started().await;
    let wanted = attach(&registry, |m| m["artifactType"] = json!("a/wanted+json")).await;
    attach(&registry, |m| m["artifactType"] = json!("a/other")).await;
    let answer = registry.get(&format!("{}?artifactType=a%2Fwanted%2Bjson", path())).await;
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    let digests: Vec<Value> =
        answer.json()["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect();
    assert_eq!(digests, [json!(wanted.to_string())]);
    let nothing = registry.get(&format!("{}?artifactType=a/none", path())).await;
    assert_eq!(nothing.json()["manifests"], json!([]));
    assert_eq!(nothing.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(registry.get(&path()).await.header("oci-filters-applied"), None);
    registry.finish().await;
}

#[tokio::test]
async fn many_referrers_come_in_pages_that_lose_none() {
    let registry = started().await;
    let mut attached = BTreeSet::new();
    for at in 0..105 {
        let kind = if at % 2 == 0 { "a/even" } else { "a/odd" };
        let digest = attach(&registry, |m| {
            m["artifactType"] = json!(kind);
            m["annotations"] = json!({ "at": at.to_string() });
        });
        attached.insert(digest.await.to_string());
    }
    for (query, expected, least) in [("", 105, 2), ("?artifactType=a/even", 53, 1)] {
        let (mut next, mut found, mut pages) = (Some(format!("{}{query}", path())), BTreeSet::new(), 0);
        while let Some(path) = next {
            let answer = registry.get(&path).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.header("oci-filters-applied").is_some(), !query.is_empty(), "{path}");
            for entry in answer.json()["manifests"].as_array().unwrap() {
                assert!(found.insert(entry["digest"].as_str().unwrap().to_owned()), "listed twice");
            }
            pages += 1;
            next = answer.header("link").map(|link| link[1..].split_once('>').unwrap().0.to_owned());
        }
        assert_eq!((found.len(), found.is_subset(&attached)), (expected, true));
        assert!(pages >= least, "{pages} pages");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_deleted_referrer_is_listed_no_more() {
    let registry = started().await;
    let digest = attach(&registry, |_| {}).await;
    registry.send(Call::new("DELETE", &format!("/v2/app/manifests/{digest}"))).await;
    assert_eq!(registry.get(&path()).await.json()["manifests"], json!([]));
    registry.finish().await;
}

#[tokio::test]
async fn referrers_are_those_of_one_repository() {
    let registry = started().await;
    attach(&registry, |_| {}).await;
    let elsewhere = registry.get(&path().replace("/app/", "/other/")).await;
    assert_eq!((elsewhere.status(), &elsewhere.json()["manifests"]), (200, &json!([])));
    registry.finish().await;
}

#[tokio::test]
async fn malformed_subjects_and_places_are_refused() {
    let registry = started().await;
    for subject in ["latest", "sha256:abc", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", "sha256:"] {
        let answer = registry.get(&format!("/v2/app/referrers/{subject}")).await;
        assert_refused(&answer, 400, "DIGEST_INVALID", subject);
    }
    assert_refused(&registry.get(&format!("{}?last=x", path())).await, 400, "DIGEST_INVALID", "last");
    registry.finish().await;
}
