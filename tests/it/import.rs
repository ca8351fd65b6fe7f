//! Layouts come in, whoever made them: whole or not at all, verified, and as what the operator says.

use bytes::Bytes;
use entrepot::oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::content;
use crate::support::layout::{Tar, blob_file, done, entry, index, refused, tried};
use crate::support::process::{Process, run};
use crate::support::push::{IMAGE, INDEX, assert_holds_nothing, descriptor, digest_of, image, push_image};
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

/// An image of one layer as an archive. Returns the manifest too.
fn archived(name: &str, layer: &[u8]) -> (Tar, String) {
    let manifest = image(b"{}", &[layer]).to_string();
    let tar = Tar::of(&[entry(IMAGE, manifest.as_bytes(), name)]);
    (tar.blob(manifest.as_bytes()).blob(b"{}").blob(layer), manifest)
}

async fn assert_pulled(registry: &TestRegistry, repository: &str, tag: &str, manifest: &[u8], blobs: &[&[u8]]) {
    let pulled = registry.get(&manifest_path(repository, tag)).await;
    assert_eq!(pulled.body, manifest, "{repository}:{tag}");
    for blob in blobs {
        assert_eq!(registry.get(&blob_path(repository, &digest_of(blob))).await.body, *blob);
    }
}

#[tokio::test]
async fn what_was_exported_comes_back_byte_for_byte_through_every_form() {
    let origin = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let layer = content(200_000, 1);
    let manifest = push_image(&origin, "team/app", "v1", &layer).await;
    let shared = push_image(&origin, "other/app", "v1", &layer).await;
    let mut signature = image(b"{}", &[b"signed"]);
    signature["subject"] = descriptor(IMAGE, &manifest);
    origin.push_blob("team/app", "{}").await;
    origin.push_blob("team/app", "signed").await;
    let signature = Bytes::from(signature.to_string());
    let digest = digest_of(&signature).to_string();
    origin.push_manifest("team/app", &digest, IMAGE, signature.clone()).await;
    for to in ["dir", "file.tar"] {
        done(&origin, folder.path(), &["export", "--all", "--to", to]).await;
    }
    let piped = std::fs::read(folder.path().join("file.tar")).unwrap();
    for from in ["dir", "file.tar", "-"] {
        let registry = TestRegistry::builder().start().await;
        let input = if from == "-" { piped.clone() } else { Vec::new() };
        for here in [0, 4] {
            let imported = tried(&registry, folder.path(), &["import", from, "--json"], input.clone()).await;
            assert_eq!(imported.code, Some(0), "{from}: {}", imported.stderr);
            let told: Value = serde_json::from_str(&imported.stdout).unwrap();
            assert_eq!((&told["tags"], &told["here"]), (&json!(2), &json!(here)), "{from}: {told}");
        }
        assert_pulled(&registry, "team/app", "v1", &manifest, &[&layer]).await;
        assert_pulled(&registry, "other/app", "v1", &shared, &[&layer]).await;
        assert_pulled(&registry, "team/app", &digest, &signature, &[b"signed"]).await;
        let referrers = registry.get(&format!("/v2/team/app/referrers/{}", digest_of(&manifest))).await.json();
        assert_eq!(referrers["manifests"][0]["digest"], digest, "{from}");
        let pushed = registry.metadata().find_blob(&digest_of(&layer)).await.unwrap().unwrap();
        assert!(pushed.pushed, "it could be evicted");
        registry.finish().await;
    }
    origin.finish().await;
}

#[tokio::test]
async fn a_mirrors_content_crosses_an_air_gap_and_is_pulled_by_its_own_name() {
    let fake = FakeUpstream::start().await;
    let layer = content(60_000, 2);
    let pulled = fake.push_image("library/nginx", "1.27", &[&layer]);
    let low = TestRegistry::over(&fake).await;
    let folder = TempDir::new().unwrap();
    done(&low, folder.path(), &["export", "library/nginx:1.27", "--fetch", "--to", "gap.tar"]).await;
    let asked = fake.requests().len();
    for (as_what, is_pushed) in [(&["--as-cached"][..], false), (&[], true)] {
        let offline = TestRegistry::builder().default_upstream(HUB, &fake).config(|config| config.offline = true);
        let high = offline.start().await;
        let imported = done(&high, folder.path(), &[&["import", "gap.tar"], as_what].concat()).await;
        assert_eq!(imported.stderr.contains("is not asked for it any more"), is_pushed, "{}", imported.stderr);
        for path in [manifest_path("library/nginx", "1.27"), manifest_path(&format!("{HUB}/library/nginx"), "1.27")] {
            let answer = high.get(&path).await;
            assert_eq!(answer.header("docker-content-digest"), Some(pulled.manifest.to_string().as_str()), "{path}");
        }
        assert_eq!(high.get(&blob_path("library/nginx", &pulled.layers[0])).await.body, layer);
        let row = high.metadata().find_blob(&pulled.layers[0]).await.unwrap().unwrap();
        assert_eq!(row.pushed, is_pushed);
        let sums = high.sums();
        assert_eq!((sums.pushed > 0, sums.cached > 0), (is_pushed, !is_pushed), "{sums:?}");
        high.finish().await;
    }
    assert_eq!(fake.requests().len(), asked);
    low.finish().await;
}

#[tokio::test]
async fn what_is_cached_must_be_an_upstreams_and_must_fit() {
    let fake = FakeUpstream::start().await;
    let folder = TempDir::new().unwrap();
    let registry = TestRegistry::builder().default_upstream(HUB, &fake).cache_max(64 << 10).start().await;
    let layer = content(100_000, 3);
    for (name, reason) in
        [("ghcr.example/app:v1", "is no configured upstream's"), (&format!("{HUB}/big:v1"), "no room")]
    {
        std::fs::write(folder.path().join("a.tar"), archived(name, &layer).0.bytes()).unwrap();
        let said = refused(&registry, folder.path(), &["import", "a.tar", "--as-cached"]).await;
        assert!(said.contains(reason), "{name}: {said}");
        let call = Call::get(&manifest_path(name.split(':').next().unwrap(), "v1"));
        assert_eq!(registry.send(call.header("cache-control", "only-if-cached")).await.status(), 504, "{name}");
    }
    push_image(&registry, &format!("{HUB}/mine"), "v1", b"pushed").await;
    std::fs::write(folder.path().join("a.tar"), archived(&format!("{HUB}/mine:v2"), b"small").0.bytes()).unwrap();
    let said = refused(&registry, folder.path(), &["import", "a.tar", "--as-cached"]).await;
    assert!(said.contains("somebody pushed to"), "{said}");
    registry.finish().await;
}

#[tokio::test]
async fn a_sparse_index_stays_sparse_and_says_so() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let (here, absent) = (image(b"{}", &[b"here"]).to_string(), image(b"{}", &[b"absent"]).to_string());
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [descriptor(IMAGE, here.as_bytes()), descriptor(IMAGE, absent.as_bytes())] })
    .to_string();
    let tar = Tar::of(&[entry(INDEX, index.as_bytes(), "team/app:v1")]).blob(index.as_bytes());
    std::fs::write(folder.path().join("a.tar"), tar.blob(here.as_bytes()).blob(b"{}").blob(b"here").bytes()).unwrap();
    done(&registry, folder.path(), &["import", "a.tar"]).await;
    assert_pulled(&registry, "team/app", "v1", index.as_bytes(), &[b"here"]).await;
    let path = manifest_path("team/app", digest_of(&absent));
    assert_eq!(registry.get(&path).await.status(), 404, "what did not come is not there");
    registry.finish().await;
}

#[tokio::test]
async fn a_delta_is_completed_from_what_is_here_and_refused_by_name_without() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let base = content(50_000, 4);
    let manifest = image(b"{}", &[&base]).to_string();
    let delta = Tar::of(&[entry(IMAGE, manifest.as_bytes(), "team/app:v2")]).blob(manifest.as_bytes()).blob(b"{}");
    std::fs::write(folder.path().join("delta.tar"), delta.bytes()).unwrap();
    let said = refused(&registry, folder.path(), &["import", "delta.tar"]).await;
    assert!(said.contains(&digest_of(&base).to_string()) && said.contains("nothing was tagged"), "{said}");
    assert_eq!(registry.get(&manifest_path("team/app", "v2")).await.status(), 404);
    // Any repository of this registry will do.
    registry.push_blob("base/image", base.clone()).await;
    done(&registry, folder.path(), &["import", "delta.tar"]).await;
    assert_pulled(&registry, "team/app", "v2", manifest.as_bytes(), &[&base]).await;
    let listed = done(&registry, folder.path(), &["import", "delta.tar", "--list-have"]).await.stdout;
    let mut listed: Vec<Digest> = listed.lines().map(|line| line.parse().unwrap()).collect();
    listed.sort();
    let mut expected = vec![digest_of(&base), digest_of(b"{}")];
    expected.sort();
    assert_eq!(listed, expected);
    registry.finish().await;
}

/// Puts index, manifest and layer behind what is there.
type Order = fn(Tar, &[u8], &[u8], &[u8]) -> Tar;

#[tokio::test]
async fn members_in_any_order_come_in_through_a_pipe() {
    let layer = content(300_000, 5);
    let manifest = image(b"{}", &[&layer]).to_string();
    let named = index(&[entry(IMAGE, manifest.as_bytes(), "team/app:v1")]);
    let orders: [Order; 3] = [
        |tar, index, manifest, layer| tar.blob(layer).blob(b"{}").blob(manifest).file("index.json", index),
        |tar, index, manifest, layer| tar.blob(layer).file("./index.json", index).blob(manifest).blob(b"{}"),
        |tar, index, manifest, layer| tar.blob(manifest).file("index.json", index).blob(b"{}").blob(layer),
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let registry = TestRegistry::builder().start().await;
        let folder = TempDir::new().unwrap();
        let other = Tar::default().file("manifest.json", b"[]").member("blobs/", b'5', 0).file("repositories", b"{}");
        let tar = order(other, named.as_bytes(), manifest.as_bytes(), &layer).bytes();
        let ended = tried(&registry, folder.path(), &["import", "-"], tar).await;
        assert_eq!(ended.code, Some(0), "order {number}: {}", ended.stderr);
        assert_pulled(&registry, "team/app", "v1", manifest.as_bytes(), &[&layer]).await;
        registry.finish().await;
    }
}

#[tokio::test]
async fn archives_that_no_honest_program_writes_are_refused_and_leave_nothing() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let (layer, wrong) = (content(1000, 6), content(1000, 7));
    let manifest = image(b"{}", &[&layer]).to_string();
    let named = [entry(IMAGE, manifest.as_bytes(), "team/app:v1")];
    let tar = || Tar::of(&named);
    let (layer_name, manifest_name) =
        (format!("blobs/sha256/{}", digest_of(&layer).hex()), format!("blobs/sha256/{}", digest_of(&manifest).hex()));
    let rows: Vec<(&str, Tar, String)> = vec![
        ("an absolute path", tar().file("/etc/cron.d/x", b"x"), "absolute path".into()),
        ("a way out", tar().file("blobs/../../x", b"x"), "leads out".into()),
        ("a symbolic link", tar().member(&layer_name, b'2', 0), "is a link".into()),
        ("a hard link", tar().member(&layer_name, b'1', 0), "is a link".into()),
        ("a device", tar().member("blobs/x", b'3', 0), "neither a file nor a folder".into()),
        ("a name twice", tar().blob(&layer).blob(&layer), "comes twice".into()),
        ("an index twice", tar().file("./index.json", index(&named).as_bytes()), "comes twice".into()),
        ("no digest", tar().file("blobs/sha256/12", b"x"), "not named after a digest".into()),
        ("an index of 1 GiB", Tar::default().member("index.json", b'0', 1 << 30), String::new()),
        ("a manifest of 1 GiB", tar().member(&manifest_name, b'0', 1 << 30), String::new()),
        ("a blob of 8 GiB", tar().blob(manifest.as_bytes()).member(&layer_name, b'0', (8 << 30) - 1), String::new()),
        ("another manifest", tar().file(&manifest_name, b"{}"), format!("{} is corrupt", digest_of(&manifest))),
        (
            "another layer",
            tar().blob(manifest.as_bytes()).blob(b"{}").file(&layer_name, &wrong),
            digest_of(&layer).to_string(),
        ),
        (
            "a longer layer",
            tar().blob(manifest.as_bytes()).blob(b"{}").file(&layer_name, &[&layer[..], b"x"].concat()),
            format!("{} has 1001 bytes where 1000 were stated", digest_of(&layer)),
        ),
        ("no manifest", tar().blob(b"{}").blob(&layer), format!("{} and does not have it", digest_of(&manifest))),
        ("no index", Tar::default().blob(&layer), "index.json".into()),
        ("no JSON", Tar::default().file("index.json", b"<html>"), "index.json is not valid".into()),
        ("no name", Tar::of(&[entry(IMAGE, b"x", "1.27")]), "--to NAME".into()),
    ];
    for (what, tar, reason) in rows {
        let bytes = tar.bytes();
        std::fs::write(folder.path().join("bad.tar"), &bytes).unwrap();
        for from in ["bad.tar", "-"] {
            let input = if from == "-" { bytes.clone() } else { Vec::new() };
            let ended = tried(&registry, folder.path(), &["import", from], input).await;
            assert_eq!(ended.code, Some(1), "{what} from {from}: {} {}", ended.stdout, ended.stderr);
            assert!(ended.stderr.contains(&reason), "{what} from {from}: {}", ended.stderr);
            let answer = registry.get(&manifest_path("team/app", "v1")).await;
            assert_eq!(answer.status(), 404, "{what} from {from}");
        }
    }
    // Only the config of honest digest, sent before the layer was found out, is there.
    assert!(registry.sums().pushed <= 4096, "{:?}", registry.sums());
    registry.finish().await;
    let clean = TestRegistry::builder().start().await;
    std::fs::write(folder.path().join("bad.tar"), tar().file("/x", b"x").bytes()).unwrap();
    refused(&clean, folder.path(), &["import", "bad.tar"]).await;
    assert_holds_nothing(&clean, "a refused archive").await;
    clean.finish().await;
}

#[tokio::test]
async fn a_corrupt_blob_of_a_directory_is_refused_by_name_and_mended_by_the_next_import() {
    let origin = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let layer = content(80_000, 8);
    let manifest = push_image(&origin, "team/app", "v1", &layer).await;
    done(&origin, folder.path(), &["export", "team/app:v1", "--to", "dir"]).await;
    let file = blob_file(&folder.path().join("dir"), &digest_of(&layer));
    let mut rotten = layer.clone();
    rotten[70_000] ^= 1;
    std::fs::write(&file, &rotten).unwrap();
    let registry = TestRegistry::builder().start().await;
    let said = refused(&registry, folder.path(), &["import", "dir"]).await;
    assert!(said.contains(&digest_of(&layer).to_string()), "{said}");
    assert_eq!(registry.get(&manifest_path("team/app", "v1")).await.status(), 404);
    std::fs::write(&file, &layer).unwrap();
    done(&registry, folder.path(), &["import", "dir", "--to", "mirror/", "--to", "team/=x/"]).await;
    assert_pulled(&registry, "mirror/team/app", "v1", &manifest, &[&layer]).await;
    registry.finish().await;
    origin.finish().await;
}

#[tokio::test]
async fn a_store_without_a_server_takes_a_layout_in() {
    let folder = TempDir::new().unwrap();
    let layer = content(40_000, 9);
    let (tar, manifest) = archived("team/app:v1", &layer);
    std::fs::write(folder.path().join("a.tar"), tar.bytes()).unwrap();
    let imported = run(folder.path(), &["import", "a.tar", "--listen", "127.0.0.1:1"], &[]).await;
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    let server = Process::serve(folder.path(), &[]).await;
    let answer = server.send(Call::get("/v2/team/app/manifests/v1")).await;
    assert_eq!((answer.status(), answer.cache()), (200, "local"));
    assert_eq!(answer.body, manifest);
    assert_eq!(server.send(Call::get(&blob_path("team/app", &digest_of(&layer)))).await.body, layer);
}
