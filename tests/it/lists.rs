//! Tags and repositories, a page at a time, in bytewise order.

use bytes::Bytes;
use entrepot::config::Sparse;
use serde_json::{Value, json};

use crate::support::push::{IMAGE, assert_refused, image, push_image};
use crate::support::registry::TestRegistry;

/// In bytewise order: digits, upper case, `_`, lower case; shorter before longer.
const TAGS: [&str; 9] = ["0", "1.10", "1.9", "A", "Z", "_", "a", "a-b", "aa"];

async fn with_tags() -> TestRegistry {
    let registry = TestRegistry::builder().config(|config| config.push.sparse = Sparse::Accept).start().await;
    let bytes = Bytes::from(image(b"config", &[]).to_string());
    for tag in ["aa", "_", "Z", "1.9", "a", "0", "a-b", "1.10", "A"] {
        assert_eq!(registry.push_manifest("app", tag, IMAGE, bytes.clone()).await.status(), 201);
    }
    registry
}

/// Follows `Link` from `path` to the end. Returns what each page had.
async fn pages(registry: &TestRegistry, path: &str, key: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = registry.get(&path).await;
        assert_eq!(answer.status(), 200, "{path}: {:?}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let entries = answer.json()[key].as_array().expect("a list").clone();
        pages.push(entries.iter().map(|entry| entry.as_str().expect("text").to_owned()).collect());
        next = answer.header("link").map(|link| {
            let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            target.unwrap_or_else(|| panic!("{link}")).to_owned()
        });
        assert!(pages.len() < 50, "the pages never end");
    }
    pages
}

#[tokio::test]
async fn tags_come_in_bytewise_order_and_all_at_once_if_nothing_is_said() {
    let registry = with_tags().await;
    let answer = registry.get("/v2/app/tags/list").await;
    assert_eq!(answer.json(), json!({ "name": "app", "tags": TAGS }));
    assert_eq!(answer.header("link"), None);
    registry.finish().await;
}

#[tokio::test]
async fn pages_of_tags_add_up_to_the_list() {
    let registry = with_tags().await;
    for n in [1, 2, 4, 8, 9, 10, 1000, 5_000_000] {
        let pages = pages(&registry, &format!("/v2/app/tags/list?n={n}"), "tags").await;
        assert_eq!(pages.concat(), TAGS, "n={n}");
        assert_eq!(pages.len(), TAGS.len().div_ceil(n), "n={n}");
        assert!(pages.iter().all(|page| page.len() <= n), "n={n}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_page_begins_after_last_whether_that_exists_or_not() {
    let registry = with_tags().await;
    let cases: [(&str, &[&str]); 7] = [
        ("last=a", &["a-b", "aa"]),
        ("last=1.5", &TAGS[2..]),
        ("last=aa", &[]),
        ("last=zzz", &[]),
        ("last=", &TAGS),
        ("last=%E9%9B%AA", &[]),
        ("n=2&last=Z", &["_", "a"]),
    ];
    for (query, expected) in cases {
        let answer = registry.get(&format!("/v2/app/tags/list?{query}")).await;
        assert_eq!((answer.status(), &answer.json()["tags"]), (200, &json!(expected)), "{query}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn no_entries_are_asked_for_and_none_come() {
    let registry = with_tags().await;
    for (path, key) in [("/v2/app/tags/list?n=0", "tags"), ("/v2/_catalog?n=0", "repositories")] {
        let answer = registry.get(path).await;
        assert_eq!((answer.status(), &answer.json()[key], answer.header("link")), (200, &json!([]), None), "{path}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_number_that_is_none_is_refused() {
    let registry = with_tags().await;
    for path in ["/v2/app/tags/list", "/v2/_catalog"] {
        for n in ["", "-1", "+1", "1.5", "ten", "0x10", "%31%00", "1 0"] {
            let path = format!("{path}?n={}", n.replace(' ', "%20"));
            assert_refused(&registry.get(&path).await, 400, "UNSUPPORTED", &path);
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_repository_nobody_pushed_to_has_no_tags() {
    let registry = TestRegistry::builder().start().await;
    let answer = registry.get("/v2/nobody/tags/list").await;
    assert_eq!((answer.status(), answer.json()), (200, json!({ "name": "nobody", "tags": [] })));
    registry.finish().await;
}

#[tokio::test]
async fn repositories_come_in_bytewise_order_a_page_at_a_time() {
    let registry = TestRegistry::builder().start().await;
    let names = ["a", "a-b", "a/b", "a0", "b.c/d", "b/c"];
    for name in ["b/c", "a0", "a", "b.c/d", "a/b", "a-b"] {
        push_image(&registry, name, "latest", b"layer").await;
    }
    for n in [1, 2, 3, 6, 7] {
        assert_eq!(pages(&registry, &format!("/v2/_catalog?n={n}"), "repositories").await.concat(), names, "n={n}");
    }
    let after: Value = registry.get("/v2/_catalog?last=a0").await.json();
    assert_eq!(after["repositories"], json!(["b.c/d", "b/c"]));
    assert_eq!(registry.get("/v2/_catalog?last=zz").await.json()["repositories"], json!([]));
    registry.finish().await;
}

#[tokio::test]
async fn head_of_a_list_is_get_without_its_body() {
    let registry = with_tags().await;
    for path in ["/v2/", "/v2/_catalog", "/v2/app/tags/list?n=2"] {
        let (head, get) = (registry.head(path).await, registry.get(path).await);
        assert_eq!((head.status(), head.body.len()), (200, 0), "{path}");
        assert_eq!(head.head.lasting(), get.head.lasting(), "{path}");
    }
    registry.finish().await;
}
