//! Web pages in the operator's browser: what their requests, and names that lead here by rebinding, cannot do.

use crate::support::client::Call;
use crate::support::content;
use crate::support::registry::TestRegistry;

const FOREIGN: [(&str, &str); 4] = [
    ("origin", "https://evil.example"),
    ("origin", "null"),
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-site", "same-site"),
];

#[tokio::test]
async fn a_foreign_page_changes_nothing_through_the_admin_api() {
    let registry = TestRegistry::builder().start().await;
    for (header, value) in FOREIGN {
        for (method, path) in [
            ("POST", "/api/v1/gc"),
            ("POST", "/api/v1/warm"),
            ("POST", "/api/v1/robots"),
            ("PUT", "/api/v1/pins?ref=a:b"),
            ("GET", "/api/v1/fills"),
        ] {
            let call = Call::new(method, path).header(header, value).header("content-type", "text/plain").body("{}");
            let refused = registry.send(call).await;
            assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"), "{method} {path} with {header}");
            assert!(refused.message().to_lowercase().contains(header), "{}", refused.message());
        }
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_foreign_page_pushes_nothing_and_deletes_nothing() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("team/app", content(10, 1)).await;
    for (header, value) in FOREIGN {
        let upload = Call::new("POST", &format!("/v2/team/app/blobs/uploads/?digest={digest}"));
        let delete = Call::new("DELETE", &format!("/v2/team/app/blobs/{digest}"));
        for call in [upload.body(content(10, 1)), delete] {
            let refused = registry.send(call.header(header, value)).await;
            assert_eq!((refused.status(), refused.code().as_str()), (403, "DENIED"), "with {header}: {value}");
            assert!(refused.message().contains("http.cors_origins"), "{}", refused.message());
        }
        let read = registry.send(Call::get(&format!("/v2/team/app/blobs/{digest}")).header(header, value)).await;
        assert_eq!(read.status(), 200, "whether a page may read an answer is the browser's business");
    }
    registry.finish().await;
}

#[tokio::test]
async fn what_comes_from_no_page_from_ours_or_from_one_that_is_named_counts_as_before() {
    let configured = TestRegistry::builder()
        .config(|config| config.http.cors_origins = vec!["*".to_owned(), "https://ui.example".to_owned()]);
    let registry = configured.start().await;
    let own = format!("http://{}", registry.address());
    let gc = || Call::new("POST", "/api/v1/gc");
    assert_eq!(registry.send(gc()).await.status(), 200, "curl, and our own commands");
    for site in ["same-origin", "none"] {
        assert_eq!(registry.send(gc().header("sec-fetch-site", site).header("origin", &own)).await.status(), 200);
    }
    let upload = || Call::new("POST", "/v2/team/app/blobs/uploads/?digest=x");
    let named = upload().header("origin", "https://ui.example").header("sec-fetch-site", "cross-site");
    assert_eq!(registry.send(named).await.status(), 400, "it is let in, and its digest is none");
    let any = upload().header("origin", "https://other.example");
    assert_eq!(registry.send(any).await.status(), 403, "`*` lets pages read");
    let admin = registry.send(gc().header("origin", "https://ui.example")).await;
    assert_eq!(admin.status(), 403, "the admin API is for no page but ours");
    registry.finish().await;
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_gets_nothing_that_only_this_machine_gets() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let push = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let configured = TestRegistry::builder().config(|config| {
        config.http.names = vec!["registry.example".to_owned()];
    });
    let registry = configured.start().await;
    for (host, is_ours) in [
        ("evil.example:5000", false),
        ("127.0.0.1.evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1:5000", true),
        ("[::1]:5000", true),
        ("10.0.0.7", true),
        ("localhost:5000", true),
        ("box:5000", true),
        ("Registry.Example:5000", true),
    ] {
        let fills = registry.send(Call::get("/api/v1/fills").header("host", host)).await;
        let pushed = registry.send(Call::new("POST", &push).header("host", host)).await;
        assert_eq!((fills.status(), pushed.status()), if is_ours { (200, 201) } else { (403, 403) }, "{host}");
        if !is_ours {
            let told = |message: String| message.contains("Host") && message.contains("http.names");
            assert!(told(fills.message()) && told(pushed.message()), "{}", pushed.message());
        }
        let read = registry.send(Call::get("/v2/").header("host", host)).await;
        assert_eq!(read.status(), 200, "what everybody may is not asked about the name");
    }
    registry.finish().await;
}
