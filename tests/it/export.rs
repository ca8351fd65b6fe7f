//! Images leave as OCI image layouts: with all that belongs to them, byte for byte, and nothing that is not here in secret.

use std::path::Path;

use bytes::Bytes;
use entrepot::oci::{Digest, ManifestKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::content;
use crate::support::layout::{blob_file, blobs_in, done, index_of, names_in, refused, tried};
use crate::support::process::{Process, run};
use crate::support::push::{IMAGE, INDEX, descriptor, digest_of, image, push_image};
use crate::support::registry::{HUB, TestRegistry, blob_path, manifest_path};
use crate::support::upstream::FakeUpstream;

/// An index of two platforms, pushed. Returns it with the images it lists.
async fn push_index(registry: &TestRegistry, repository: &str, tag: &str) -> (Bytes, [Bytes; 2]) {
    let mut children = Vec::new();
    for (seed, architecture) in [(1, "amd64"), (2, "arm64")] {
        let bytes =
            push_image(registry, repository, &digest_later(&content(30_000, seed)), &content(30_000, seed)).await;
        let mut child = descriptor(IMAGE, &bytes);
        child["platform"] = json!({ "os": "linux", "architecture": architecture });
        children.push((bytes, child));
    }
    let descriptors: Vec<&Value> = children.iter().map(|(_, child)| child).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors }).to_string();
    let index = Bytes::from(index);
    assert_eq!(registry.push_manifest(repository, tag, INDEX, index.clone()).await.status(), 201);
    let [one, two] = &children[..] else { panic!("there are two platforms") };
    (index, [one.0.clone(), two.0.clone()])
}

/// The digest under which `push_image` puts the image of a layer.
fn digest_later(layer: &[u8]) -> String {
    let config = format!("{{\"layer\":\"{}\"}}", digest_of(layer));
    digest_of(image(config.as_bytes(), &[layer]).to_string()).to_string()
}

/// Pushes something attached to a manifest. Returns its digest.
async fn attach(registry: &TestRegistry, repository: &str, subject: &[u8], layer: &[u8]) -> Bytes {
    registry.push_blob(repository, "{}").await;
    registry.push_blob(repository, layer.to_vec()).await;
    let mut manifest = image(b"{}", &[layer]);
    manifest["artifactType"] = json!("application/spdx+json");
    manifest["subject"] = descriptor(IMAGE, subject);
    let bytes = Bytes::from(manifest.to_string());
    let digest = digest_of(&bytes).to_string();
    assert_eq!(registry.push_manifest(repository, &digest, IMAGE, bytes.clone()).await.status(), 201);
    bytes
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests.dedup();
    digests
}

/// Every digest a manifest and its blobs have.
fn parts_of(manifest: &[u8]) -> Vec<Digest> {
    let parsed: Value = serde_json::from_slice(manifest).unwrap();
    let layers = parsed["layers"].as_array().unwrap().iter().chain([&parsed["config"]]);
    let mut parts: Vec<Digest> = layers.map(|blob| blob["digest"].as_str().unwrap().parse().unwrap()).collect();
    parts.push(digest_of(manifest));
    parts
}

#[tokio::test]
async fn all_that_belongs_to_an_image_comes_along_under_its_whole_name() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let (index, [amd64, arm64]) = push_index(&registry, "team/app", "v1").await;
    let sbom = attach(&registry, "team/app", &amd64, b"what is in it").await;
    let signature = attach(&registry, "team/app", &sbom, b"who says so").await;
    let cosign = format!("{}.sig", digest_of(&index).to_string().replace(':', "-"));
    let signed = push_image(&registry, "team/app", &cosign, b"signed").await;
    push_image(&registry, "team/app", "other", b"nobody asked for this").await;
    done(&registry, folder.path(), &["export", "team/app:v1", "--to", "out"]).await;
    let layout = folder.path().join("out");
    let mut expected = vec![digest_of(&index)];
    for manifest in [&amd64, &arm64, &sbom, &signature, &signed] {
        expected.extend(parts_of(manifest));
    }
    assert_eq!(blobs_in(&layout), sorted(expected));
    let by_digest = |manifest: &Bytes| format!("team/app@{}", digest_of(manifest));
    let mut names =
        vec!["team/app:v1".to_owned(), by_digest(&sbom), by_digest(&signature), format!("team/app:{cosign}")];
    names.sort();
    assert_eq!(names_in(&layout), names);
    assert_eq!(std::fs::read(layout.join("oci-layout")).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    done(&registry, folder.path(), &["export", "team/app:v1", "--no-referrers", "--to", "bare"]).await;
    assert_eq!(names_in(&folder.path().join("bare")), ["team/app:v1"]);
    registry.finish().await;
}

#[tokio::test]
async fn a_chosen_platform_leaves_the_index_as_it_is() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let (index, [_, arm64]) = push_index(&registry, "team/app", "v1").await;
    done(&registry, folder.path(), &["export", "team/app:v1", "--platform", "linux/arm64", "--to", "out"]).await;
    let layout = folder.path().join("out");
    assert_eq!(std::fs::read(blob_file(&layout, &digest_of(&index))).unwrap(), index);
    assert_eq!(blobs_in(&layout), sorted([parts_of(&arm64), vec![digest_of(&index)]].concat()));
    let none =
        refused(&registry, folder.path(), &["export", "team/app:v1", "--platform", "linux/s390x", "--to", "x"]).await;
    assert!(none.contains("linux/s390x"), "{none}");
    registry.finish().await;
}

#[tokio::test]
async fn what_is_not_here_is_named_left_out_or_fetched_as_told() {
    let fake = FakeUpstream::start().await;
    let (here, absent) = (content(40_000, 3), content(50_000, 4));
    let whole = fake.push_image("team/app", "whole", &[&here]);
    let partly = fake.push_image("team/app", "partly", &[&here, &absent]);
    let registry = TestRegistry::over(&fake).await;
    let folder = TempDir::new().unwrap();
    for tag in ["whole", "partly"] {
        registry.get(&manifest_path("team/app", tag)).await;
    }
    for digest in [&whole.layers[0], &whole.config, &partly.config] {
        registry.get(&blob_path("team/app", digest)).await;
    }
    registry.fills_end().await;
    let asked = fake.requests().len();
    let said = refused(&registry, folder.path(), &["export", "app:none", "team/app:partly", "--to", "out"]).await;
    let name = format!("{HUB}/team/app:partly");
    assert!(said.contains(&name) && said.contains(&partly.layers[1].to_string()), "{said}");
    assert!(said.contains(&format!("{HUB}/app:none")) && said.contains("--fetch"), "{said}");
    assert!(!folder.path().join("out").exists(), "a layout was begun");
    let all = done(&registry, folder.path(), &["export", "--all", "--skip-missing", "--to", "out"]).await;
    assert!(all.stderr.contains(&name), "{}", all.stderr);
    assert_eq!(names_in(&folder.path().join("out")), [format!("{HUB}/team/app:whole")]);
    assert_eq!(fake.requests().len(), asked, "an export asked the upstream unasked");
    done(&registry, folder.path(), &["export", "team/app:partly", "--fetch", "--to", "out"]).await;
    assert!(blobs_in(&folder.path().join("out")).contains(&partly.layers[1]));
    assert_eq!(names_in(&folder.path().join("out")).len(), 2, "what the layout had before stays");
    registry.finish().await;
}

#[tokio::test]
async fn only_if_cached_asks_nobody_and_does_not_claim_that_there_is_nothing() {
    let fake = FakeUpstream::start().await;
    let image = fake.push_image("team/app", "v1", &[b"layer"]);
    let registry = TestRegistry::over(&fake).await;
    let stored = async |path: &str| registry.send(Call::get(path).header("cache-control", "only-if-cached")).await;
    let (manifest, blob) = (manifest_path("team/app", "v1"), blob_path("team/app", &image.layers[0]));
    for path in [&manifest, &blob] {
        let answer = stored(path).await;
        assert_eq!((answer.status(), answer.code().as_str()), (504, "UNAVAILABLE"), "{path}");
    }
    assert_eq!(fake.requests().len(), 0);
    registry.get(&manifest).await;
    registry.get(&blob).await;
    registry.fills_end().await;
    let asked = fake.requests().len();
    assert_eq!(stored(&manifest).await.header("docker-content-digest"), Some(image.manifest.to_string().as_str()));
    assert_eq!(stored(&blob).await.body, &b"layer"[..]);
    assert_eq!(stored("/v2/team/app/tags/list").await.json()["tags"], json!(["v1"]));
    let referrers = stored(&format!("/v2/team/app/referrers/{}", image.manifest)).await;
    assert_eq!(referrers.json()["manifests"], json!([]));
    assert_eq!(fake.requests().len(), asked, "the upstream was asked");
    registry.finish().await;
}

#[tokio::test]
async fn what_the_other_side_has_is_left_out() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    push_image(&registry, "team/app", "v1", &content(20_000, 5)).await;
    let listed = done(&registry, folder.path(), &["export", "team/app:v1", "--list"]).await.stdout;
    assert_eq!(listed.lines().count(), 3, "manifest, config, layer: {listed}");
    std::fs::write(folder.path().join("have"), &listed).unwrap();
    let (base, new) = (content(20_000, 5), content(1000, 6));
    registry.push_blob("team/app", "{}").await;
    registry.push_blob("team/app", new.clone()).await;
    let second = Bytes::from(image(b"{}", &[&base, &new]).to_string());
    registry.push_manifest("team/app", "v2", IMAGE, second.clone()).await;
    let arguments = ["export", "team/app:v1", "team/app:v2", "--have", "have", "--to", "delta", "--json"];
    let exported: Value = serde_json::from_str(&done(&registry, folder.path(), &arguments).await.stdout).unwrap();
    assert_eq!((&exported["blobs"], &exported["left_out"]), (&json!(2), &json!(2)));
    assert!(!blobs_in(&folder.path().join("delta")).contains(&digest_of(&base)));
    registry.finish().await;
}

#[tokio::test]
async fn an_interrupted_export_goes_on_where_it_was_and_trusts_no_file() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let layer = content(300_000, 7);
    let manifest = push_image(&registry, "team/app", "v1", &layer).await;
    let layout = folder.path().join("out");
    done(&registry, folder.path(), &["export", "team/app:v1", "--to", "out"]).await;
    // As if it had been interrupted in the middle of the layer, and a bit of the config had flipped since.
    let file = blob_file(&layout, &digest_of(&layer));
    std::fs::remove_file(&file).unwrap();
    std::fs::write(file.with_extension("partial"), &layer[..200_000]).unwrap();
    let config =
        parts_of(&manifest).into_iter().find(|digest| ![digest_of(&layer), digest_of(&manifest)].contains(digest));
    let config = blob_file(&layout, &config.unwrap());
    let config_bytes = std::fs::read(&config).unwrap();
    std::fs::write(&config, b"flipped").unwrap();
    let again = done(&registry, folder.path(), &["export", "team/app:v1", "--to", "out", "--json"]).await;
    let told: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!((&told["kept"], &told["bytes"]), (&json!(1), &json!(100_000 + config_bytes.len())));
    assert_eq!(blobs_in(&layout), sorted(parts_of(&manifest)));
    // A partial file that is no beginning of the blob is found out, and is gone the next time.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(file.with_extension("partial"), vec![0; 1000]).unwrap();
    let corrupt = refused(&registry, folder.path(), &["export", "team/app:v1", "--to", "out"]).await;
    assert!(corrupt.contains(&digest_of(&layer).to_string()), "{corrupt}");
    done(&registry, folder.path(), &["export", "team/app:v1", "--to", "out"]).await;
    assert_eq!(blobs_in(&layout).len(), 3);
    registry.finish().await;
}

#[tokio::test]
async fn bytes_that_rotted_in_the_store_do_not_leave_it() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    let layer = content(10_000, 8);
    push_image(&registry, "team/app", "v1", &layer).await;
    let mut rotten = layer.clone();
    rotten[5000] ^= 1;
    let hex = digest_of(&layer).hex();
    let stored = registry.store().join("blobs/sha256").join(&hex[..2]).join(&hex);
    std::fs::write(&stored, &rotten).unwrap();
    for to in ["out", "out.tar"] {
        let said = refused(&registry, folder.path(), &["export", "team/app:v1", "--to", to]).await;
        assert!(said.contains(&format!("sha256:{hex}")) && said.contains("corrupt"), "{said}");
    }
    assert!(!folder.path().join("out.tar").exists() && !folder.path().join("out.tar.partial").exists());
    assert!(!folder.path().join("out/index.json").exists(), "it looks complete");
    std::fs::write(&stored, &layer).unwrap();
    registry.finish().await;
}

#[tokio::test]
async fn a_folder_with_other_things_in_it_is_left_alone() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    push_image(&registry, "team/app", "v1", b"layer").await;
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    std::fs::write(folder.path().join("mine/diary"), "dear").unwrap();
    let said = refused(&registry, folder.path(), &["export", "team/app:v1", "--to", "mine"]).await;
    assert!(said.contains("is no OCI image layout"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path().join("mine")).unwrap().count(), 1);
    for to in [&["--names", "tag"][..], &[]] {
        done(&registry, folder.path(), &[&["export", "team/app:v1", "--to", "named"], to].concat()).await;
    }
    assert_eq!(names_in(&folder.path().join("named")), ["team/app:v1", "v1"]);
    assert_eq!(index_of(&folder.path().join("named"))[1]["annotations"]["io.containerd.image.name"], "team/app:v1");
    registry.finish().await;
}

#[tokio::test]
async fn an_archive_through_a_pipe_is_the_one_in_a_file() {
    let registry = TestRegistry::builder().start().await;
    let folder = TempDir::new().unwrap();
    push_image(&registry, "team/app", "v1", &content(100_000, 9)).await;
    done(&registry, folder.path(), &["export", "team/app:v1", "--to", "a.tar"]).await;
    let piped = tried(&registry, folder.path(), &["export", "team/app:v1", "--to", "-"], Vec::new()).await;
    assert_eq!(piped.code, Some(0), "{}", piped.stderr);
    assert!(piped.bytes == std::fs::read(folder.path().join("a.tar")).unwrap());
    registry.finish().await;
}

#[tokio::test]
async fn a_store_at_rest_is_exported_without_a_server_and_is_not_changed() {
    let fake = FakeUpstream::start().await;
    let pulled = fake.push_image("library/app", "v1", &[&content(50_000, 10)]);
    fake.push_manifest(
        "library/app",
        Some("bare"),
        ManifestKind::OciIndex,
        json!({"schemaVersion": 2, "manifests": []}).to_string(),
    );
    let folder = TempDir::new().unwrap();
    let config = format!("upstreams: {{docker.io: {{url: '{}', default: true}}}}", fake.base_url());
    std::fs::write(folder.path().join("config.yaml"), config).unwrap();
    let server = Process::serve(folder.path(), &[]).await;
    for path in [manifest_path("app", "v1"), blob_path("app", &pulled.config), blob_path("app", &pulled.layers[0])] {
        assert_eq!(server.send(Call::get(&path)).await.status(), 200);
    }
    let listen = ["--listen", "127.0.0.1:1"];
    let export = async |arguments: &[&str], folder: &Path| {
        run(folder, &[&["export"], arguments, &listen[..]].concat(), &[]).await
    };
    let locked = export(&["app:v1", "--to", "out"], folder.path()).await;
    assert!(locked.stderr.contains("in use by another process"), "{}", locked.stderr);
    server.terminate();
    server.ended().await;
    let asked = fake.requests().len();
    for (to, more) in [("out", &[][..]), ("linked", &["--hard-link"])] {
        let ended = export(&[&["app:v1", "--to", to], more].concat(), folder.path()).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let layout = folder.path().join(to);
        assert_eq!(names_in(&layout), ["docker.io/library/app:v1"]);
        assert_eq!(blobs_in(&layout), sorted(vec![pulled.manifest, pulled.config, pulled.layers[0]]));
    }
    assert_eq!(fake.requests().len(), asked, "the upstream was asked");
    let nothing = TempDir::new().unwrap();
    let ended = export(&["app:v1", "--to", "out"], nothing.path()).await;
    assert!(ended.stderr.contains("there is no store at ./data"), "{}", ended.stderr);
    assert!(!nothing.path().join("data").exists(), "a store was made");
}
