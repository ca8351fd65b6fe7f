//! Sweeps that somebody asks for: of the server, of a store at rest, of one that is killed in the middle.

use serde_json::Value;

use crate::support::client::Call;
use crate::support::consistency::{assert_consistent, assert_recoverable};
use crate::support::content;
use crate::support::process::{Process, run};
use crate::support::registry::{TestRegistry, bytes_on_disk, folder};

const CONFIG: &str = "upstreams: {}\nstorage: {min_free: 0}\ngc: {interval: 0s, batch_max: 1}\n";

async fn push(process: &Process, seed: usize) {
    let bytes = content(9000, seed);
    let digest = crate::support::push::digest_of(&bytes);
    let path = format!("/v2/app/blobs/uploads/?digest={digest}");
    assert_eq!(process.send(Call::new("POST", &path).body(bytes)).await.status(), 201);
}

#[tokio::test]
async fn the_server_sweeps_when_it_is_told_to_and_says_what_would_go() {
    let registry = TestRegistry::builder().start().await;
    let digest = registry.push_blob("app", content(9000, 1)).await;
    let ask = async |query: &str| registry.send(Call::new("POST", &format!("/api/v1/gc?{query}"))).await;
    let planned = ask("dry_run&grace=0s").await.json();
    assert_eq!((&planned["dry_run"], &planned["blobs"]), (&Value::Bool(true), &Value::from(1)), "{planned}");
    assert_eq!(planned["garbage"][0]["digest"], digest.to_string());
    assert!(planned["garbage"][0]["reason"].as_str().unwrap().contains("manifest"), "{planned}");
    assert_eq!(planned["freed_bytes"], registry.sums().pushed);
    assert_eq!(ask("").await.json()["blobs"], 0, "it did not wait");
    assert_eq!(ask("grace=0s").await.json()["blobs"], 1);
    assert_eq!(ask("grace=soon").await.status(), 400);
    assert_eq!(registry.get("/api/v1/gc").await.status(), 405);
    let metrics = registry.metrics();
    for line in ["entrepot_sweep_deleted_total{kind=\"blob\"} 1", "entrepot_sweep_queue 0"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    registry.finish().await;
}

#[tokio::test]
async fn a_store_at_rest_is_swept_by_the_command() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), CONFIG).unwrap();
    let process = Process::serve(folder.path(), &[]).await;
    push(&process, 1).await;
    let server = format!("http://{}", process.address);
    let online = run(folder.path(), &["gc", "--dry-run", "--grace", "0s", "--json", "--server", &server], &[]).await;
    let told: Value = serde_json::from_str(&online.stdout).unwrap_or_else(|_| panic!("{online:?}"));
    assert_eq!((&told["blobs"], &told["dry_run"]), (&Value::from(1), &Value::Bool(true)), "{told}");
    process.terminate();
    process.ended().await;
    let listen = ["--listen", "127.0.0.1:1"];
    let offline = run(folder.path(), &["gc", "--grace", "0s", listen[0], listen[1]], &[]).await;
    assert_eq!(offline.code, Some(0), "{offline:?}");
    assert!(offline.stdout.contains("removed 0 manifests, 1 blobs"), "{offline:?}");
    let store = folder.path().join("data");
    assert_eq!(bytes_on_disk(&store), 0);
    assert_consistent(&store, None).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_sweep_loses_nothing_and_leaves_nothing() {
    let folder = folder();
    std::fs::write(folder.path().join("config.yaml"), CONFIG).unwrap();
    let store = folder.path().join("data");
    for round in 0..3_usize {
        let process = Process::serve(folder.path(), &[]).await;
        let image = crate::support::push::image(b"{}", &[]).to_string();
        let path = format!("/v2/app/blobs/uploads/?digest={}", crate::support::push::digest_of(b"{}"));
        assert_eq!(process.send(Call::new("POST", &path).body(&b"{}"[..])).await.status(), 201);
        let put = Call::new("PUT", "/v2/app/manifests/keep").header("content-type", crate::support::push::IMAGE);
        assert_eq!(process.send(put.body(image)).await.status(), 201);
        for seed in 0..25 {
            push(&process, 1 + round * 25 + seed).await;
        }
        let before = bytes_on_disk(&store);
        let mut raw =
            crate::support::raw::Raw::begin(process.address, "POST", "/api/v1/gc?grace=0s", "content-length: 0\r\n")
                .await;
        raw.try_write(b"").await;
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(1));
        while bytes_on_disk(&store) >= before {
            tick.tick().await;
        }
        process.kill();
        assert_recoverable(&store).await;
    }
    let process = Process::serve(folder.path(), &[]).await;
    let swept = process.send(Call::new("POST", "/api/v1/gc?grace=0s")).await.json();
    assert_eq!(swept["queued"], 0, "{swept}");
    assert_eq!(process.send(Call::get("/v2/app/manifests/keep")).await.status(), 200);
    process.terminate();
    process.ended().await;
    assert!(bytes_on_disk(&store) <= 2 * 4096, "garbage is left");
    assert_consistent(&store, None).await;
}
