//! The real binary, killed and stopped at every moment of a push: what was acknowledged is there, nothing else is.

use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;

use crate::support::client::{Answer, Call};
use crate::support::consistency::assert_recoverable;
use crate::support::content;
use crate::support::process::{Process, run};
use crate::support::push::{IMAGE, closing, digest_of, image};
use crate::support::raw::Raw;
use crate::support::registry::bytes_on_disk;
use crate::support::upstream::{FakeUpstream, Fault, Gate, On};

/// A folder whose configuration knows no upstream, so that no name is asked of anybody.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let config = "upstreams: {}\nstorage: {min_free: 0}\nhttp: {shutdown_grace: 20s}\n";
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    folder
}

/// Kills the process and starts another over its store.
async fn killed(process: Process, folder: &Path) -> Process {
    process.kill();
    Process::serve(folder, &[]).await
}

async fn get(process: &Process, path: &str) -> Answer {
    process.send(Call::get(path)).await
}

async fn status(process: &Process, path: &str) -> u16 {
    get(process, path).await.status()
}

/// Waits until files of the store have more than so many bytes.
async fn until_written(store: &Path, more_than_bytes: u64) {
    let waiting = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(2));
        while bytes_on_disk(store) <= more_than_bytes {
            tick.tick().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("bytes reach the disk");
}

#[tokio::test]
async fn every_acknowledged_step_of_a_push_survives_a_kill() {
    let folder = folder();
    let store = folder.path().join("data");
    let (config, layer) = (content(1000, 1), content(3_000_000, 2));
    let (config_blob, layer_blob) =
        (format!("/v2/app/blobs/{}", digest_of(&config)), format!("/v2/app/blobs/{}", digest_of(&layer)));
    let mut process = Process::serve(folder.path(), &[]).await;

    // A session without a byte.
    let started = process.send(Call::new("POST", "/v2/app/blobs/uploads/").body("")).await;
    let session = started.header("location").expect("a session has a place").to_owned();
    process = killed(process, folder.path()).await;
    assert_eq!(status(&process, &session).await, 204);

    // A chunk.
    assert_eq!(process.send(Call::new("PATCH", &session).body(layer[..1_000_000].to_vec())).await.status(), 202);
    process = killed(process, folder.path()).await;
    assert_eq!(get(&process, &session).await.header("range"), Some("0-999999"));

    // A chunk under way.
    let before = bytes_on_disk(&store);
    let mut patch = Raw::begin(process.address, "PATCH", &session, "content-length: 2000000\r\n").await;
    patch.write(&layer[1_000_000..2_500_000]).await;
    until_written(&store, before + 500_000).await;
    process = killed(process, folder.path()).await;
    drop(patch);
    let told = get(&process, &session).await;
    let reached: usize = told.header("range").unwrap()[2..].parse::<usize>().unwrap() + 1;
    assert!((1_000_000..=2_500_000).contains(&reached), "{reached}");
    assert_eq!(status(&process, &layer_blob).await, 404, "half a blob is visible");

    // The blob.
    let closed =
        process.send(Call::new("PUT", &closing(&session, &digest_of(&layer))).body(layer[reached..].to_vec())).await;
    assert_eq!(closed.status(), 201, "{:?}", closed.body);
    process = killed(process, folder.path()).await;
    assert!(get(&process, &layer_blob).await.body == layer);
    assert_eq!(status(&process, &session).await, 404, "the session is open again");

    // A blob in one request, a manifest, a tag.
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&config));
    assert_eq!(process.send(Call::new("POST", &path).body(config.clone())).await.status(), 201);
    process = killed(process, folder.path()).await;
    assert!(get(&process, &config_blob).await.body == config);
    let manifest = Bytes::from(image(&config, &[&layer]).to_string());
    let put = Call::new("PUT", "/v2/app/manifests/latest").header("content-type", IMAGE).body(manifest.clone());
    assert_eq!(process.send(put).await.status(), 201);
    process = killed(process, folder.path()).await;
    assert_eq!(get(&process, "/v2/app/manifests/latest").await.body, manifest);
    assert_eq!(get(&process, "/v2/app/tags/list").await.json()["tags"], json!(["latest"]));
    assert_eq!(get(&process, "/v2/_catalog").await.json()["repositories"], json!(["app"]));

    // A delete.
    assert_eq!(process.send(Call::new("DELETE", "/v2/app/manifests/latest")).await.status(), 202);
    process = killed(process, folder.path()).await;
    assert_eq!(status(&process, "/v2/app/manifests/latest").await, 404);
    process.kill();
}

#[tokio::test]
async fn a_kill_in_the_middle_of_many_pushes_loses_none_that_was_acknowledged() {
    let folder = folder();
    for round in 0..3_usize {
        let process = Process::serve(folder.path(), &[]).await;
        let blobs: Vec<Vec<u8>> = (0..12).map(|at| content(150_000 + at, 1 + at + round * 12)).collect();
        let address = process.address;
        let (acknowledged_to, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let pushing: Vec<_> = blobs
            .iter()
            .cloned()
            .map(|blob| {
                let acknowledged_to = acknowledged_to.clone();
                tokio::spawn(async move {
                    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&blob));
                    let head = format!("content-length: {}\r\n", blob.len());
                    let mut post = Raw::begin(address, "POST", &path, &head).await;
                    post.try_write(&blob).await;
                    if post.first_bytes().await.starts_with(b"HTTP/1.1 201") {
                        let _ = acknowledged_to.send(digest_of(&blob));
                    }
                })
            })
            .collect();
        drop(acknowledged_to);
        // The first few are in; the others are anywhere.
        let mut sure = Vec::new();
        while sure.len() < 3 {
            sure.push(acknowledged.recv().await.expect("pushes are acknowledged"));
        }
        process.kill();
        for task in pushing {
            task.await.expect("a client does not panic");
        }
        while let Some(digest) = acknowledged.recv().await {
            sure.push(digest);
        }
        assert_recoverable(&folder.path().join("data")).await;
        let process = Process::serve(folder.path(), &[]).await;
        for blob in &blobs {
            let digest = digest_of(blob);
            let answer = get(&process, &format!("/v2/app/blobs/{digest}")).await;
            match answer.status() {
                200 => assert!(answer.complete && answer.body == *blob, "{digest} is not what was pushed"),
                404 => assert!(!sure.contains(&digest), "{digest} was acknowledged and is gone"),
                other => panic!("{digest}: {other}"),
            }
        }
        let staged = bytes_on_disk(&folder.path().join("data")) - stored(&folder.path().join("data/blobs"));
        assert_eq!(staged, 0, "files of pushes that nobody can continue");
        process.kill();
    }
}

#[tokio::test]
async fn a_kill_amid_the_pieces_of_a_blob_leaves_a_front_without_gaps_to_go_on_from() {
    const MIB: usize = 1 << 20;
    let (folder, fake) = (folder(), FakeUpstream::start().await);
    let bytes = content(24 * MIB, 5);
    let digest = fake.push_blob("team/app", bytes.clone());
    let url = fake.base_url();
    let upstreams = format!("hub.example: {{url: \"{url}\", default: true, piece_size: 1MiB, prefetch: off}}");
    let config = format!("upstreams: {{{upstreams}}}\nstorage: {{min_free: 0}}\n");
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::Drip(gate.clone(), 100_000));
    let process = Process::serve(folder.path(), &[]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let mut reading = Call::get(&path).open(process.address).await;
    gate.let_pass(5);
    assert!(reading.read(500_000).await == bytes[..500_000]);
    // The first stream stands still within its piece; the others fill what is ahead of it.
    let ahead = 500_000 + 8 * MIB as u64;
    fake.until(|requests| requests.0.iter().map(|request| request.bytes_sent).sum::<u64>() == ahead).await;
    fake.heal();
    let process = killed(process, folder.path()).await;
    let before = fake.requests().len();
    let answer = get(&process, &path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    let first = fake.requests().0[before].header("range").map(str::to_owned);
    let from = first.as_deref().map_or(0, |range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
    assert!(from <= 500_000, "gone on from {from}, where there was a gap before");
    process.kill();
}

#[tokio::test]
async fn a_killed_fill_goes_on_near_where_it_was() {
    let (folder, fake) = (folder(), FakeUpstream::start().await);
    let bytes = content(24 << 20, 6);
    let digest = fake.push_blob("team/app", bytes.clone());
    let url = fake.base_url();
    let upstreams = format!("hub.example: {{url: \"{url}\", default: true, piece_size: 1MiB, prefetch: off}}");
    let config = format!("upstreams: {{{upstreams}}}\nstorage: {{min_free: 0}}\n");
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    // However it is cut into streams, each of them stands still half-way of the blob.
    fake.fault(On::blob(&digest), Fault::StandAt(Gate::closed(), 12 << 20));
    let process = Process::serve(folder.path(), &[]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let mut reading = Call::get(&path).open(process.address).await;
    assert!(reading.read(8 << 20).await == bytes[..8 << 20]);
    fake.heal();
    let process = killed(process, folder.path()).await;
    let before = fake.requests().len();
    let answer = get(&process, &path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    let first = fake.requests().0[before].header("range").expect("it goes on").to_owned();
    let from: usize = first["bytes=".len()..first.len() - 1].parse().unwrap();
    assert!(from >= 7 << 20, "gone on from {from}");
    process.kill();
}

#[tokio::test]
async fn a_kill_as_a_fill_is_left_to_be_continued_leaves_what_came() {
    let (folder, fake) = (folder(), FakeUpstream::start().await);
    let bytes = content(4 << 20, 7);
    let digest = fake.push_blob("team/app", bytes.clone());
    let upstreams = format!("hub.example: {{url: \"{}\", default: true, prefetch: off}}", fake.base_url());
    let config = format!("upstreams: {{{upstreams}}}\nstorage: {{min_free: 0}}\nhttp: {{shutdown_grace: 0s}}\n");
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    fake.fault(On::blob(&digest), Fault::StandAt(Gate::closed(), 2 << 20));
    let process = Process::serve(folder.path(), &["--crash-at=fill: left to be continued@1"]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let mut reading = Call::get(&path).open(process.address).await;
    assert!(reading.read(1 << 20).await == bytes[..1 << 20]);
    process.terminate();
    assert_eq!(process.ended().await.0, None, "it came to the point");
    fake.heal();

    let process = Process::serve(folder.path(), &[]).await;
    let before = fake.requests().len();
    let answer = get(&process, &path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    assert!(fake.requests().0[before].header("range").is_some(), "it began anew");
    process.kill();
}

#[tokio::test]
async fn a_kill_after_a_write_ahead_of_the_front_leaves_no_gap() {
    let (folder, fake) = (folder(), FakeUpstream::start().await);
    let bytes = content(8 << 20, 8);
    let digest = fake.push_blob("team/app", bytes.clone());
    let upstream = format!("{{url: \"{}\", default: true, piece_size: 1MiB, prefetch: off}}", fake.base_url());
    let config = format!("upstreams: {{hub.example: {upstream}}}\nstorage: {{min_free: 0}}\n");
    std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    // The first piece stands still, so that the others are ahead of it.
    let gate = Gate::closed();
    fake.fault(On::blob(&digest).times(1), Fault::StandAt(gate, 512 << 10));
    let process = Process::serve(folder.path(), &["--crash-at=fill: written ahead@3"]).await;
    let path = format!("/v2/team/app/blobs/{digest}");
    let cut = get(&process, &path).await;
    assert!(!cut.looks_complete(), "the last piece was given away without its proof");
    assert_eq!(process.ended().await.0, None, "it came to the point");
    fake.heal();
    let process = Process::serve(folder.path(), &[]).await;
    let answer = get(&process, &path).await;
    assert!(answer.looks_complete() && answer.body == bytes);
    process.kill();
}

/// Bytes below one folder.
fn stored(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => stored(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[tokio::test]
async fn a_signal_lets_the_running_transfer_finish() {
    let folder = folder();
    let process = Process::serve(folder.path(), &[]).await;
    // More than the sockets' buffers hold, so that it is still on its way when the signal comes.
    let bytes = content(48 << 20, 3);
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&bytes));
    assert_eq!(process.send(Call::new("POST", &path).body(bytes.clone())).await.status(), 201);
    let mut reading = Call::get(&format!("/v2/app/blobs/{}", digest_of(&bytes))).open(process.address).await;
    let first = reading.read(1_000_000).await;
    let session = process.send(Call::new("POST", "/v2/app/blobs/uploads/").body("")).await;
    let session = session.header("location").unwrap().to_owned();
    let store = folder.path().join("data");
    let before = bytes_on_disk(&store);
    let mut patch = Raw::begin(process.address, "PATCH", &session, "transfer-encoding: chunked\r\n").await;
    patch.chunk(&bytes[..100_000]).await;
    // A request counts as running once the server has begun with it, not when its client has sent it.
    until_written(&store, before).await;

    process.terminate();
    // Nobody new is let in any more.
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    while tokio::net::TcpStream::connect(process.address).await.is_ok() {
        tick.tick().await;
    }
    let rest = reading.finish().await;
    assert!(rest.complete && [&first[..], &rest.body].concat() == bytes);
    patch.chunk(&bytes[100_000..200_000]).await;
    patch.chunk(b"").await;
    assert_eq!(patch.answer("PATCH").await.header("range"), Some("0-199999"));
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("SIGTERM")), "{log:#?}");

    let process = Process::serve(folder.path(), &[]).await;
    assert_eq!(get(&process, &session).await.header("range"), Some("0-199999"));
    process.kill();
}

#[tokio::test]
async fn a_store_has_one_process() {
    let folder = folder();
    let process = Process::serve(folder.path(), &[]).await;
    let second = run(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--log-format", "json"], &[]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    let last = second.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("entrepot: ") && last.contains("data") && last.contains("another"), "{last}");
    assert_eq!(status(&process, "/v2/").await, 200, "the first was disturbed");
    process.kill();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let folder = folder();
    let process = Process::serve(folder.path(), &[]).await;
    let address = process.address.to_string();
    let second = run(folder.path(), &["serve", "--listen", &address, "--storage-path", "other"], &[]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains(&address) && second.stderr.contains("http.listen"), "{second:?}");
    process.kill();
}

#[tokio::test]
async fn every_request_has_one_line_in_the_log() {
    let folder = folder();
    let process = Process::serve(folder.path(), &[]).await;
    let long = format!("/v2/app/blobs/sha256:{}", "0".repeat(3000));
    let requests = [
        ("GET", "/v2/app/manifests/absent", 404),
        ("HEAD", "/v2/app/manifests/absent", 404),
        ("GET", "/v2/UPPER/tags/list", 400),
        ("GET", "/v2/a/../b/tags/list", 400),
        ("GET", "/v2/a%252fb/tags/list", 400),
        ("GET", long.as_str(), 400),
        ("PUT", "/v2/app/manifests/-bad", 400),
        ("BREW", "/v2/app/manifests/tea", 405),
        ("GET", "/v2/app/tags/list?n=x", 400),
        ("PATCH", "/v2/app/blobs/uploads/..", 404),
    ];
    for (method, path, expected) in requests {
        assert_eq!(process.send(Call::new(method, path).body("")).await.status(), expected, "{method} {path}");
    }
    process.terminate();
    let (_, log) = process.ended().await;
    let lines: Vec<serde_json::Value> =
        log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    for (method, path, expected) in requests {
        let path = path.split('?').next().unwrap();
        let about = lines.iter().filter(|line| line["path"] == path && line["method"] == method);
        let about: Vec<_> = about.collect();
        assert_eq!(about.len(), 1, "{method} {path}: {about:#?}");
        assert_eq!((&about[0]["status"], &about[0]["level"]), (&json!(expected), &json!("INFO")), "{method} {path}");
    }
    let loud: Vec<_> = lines.iter().filter(|line| line["level"] == "ERROR" || line["level"] == "WARN").collect();
    assert!(loud.is_empty(), "a stranger's mistake is no trouble of ours: {loud:#?}");
    assert!(log.iter().all(|line| line.len() < 4500), "a request makes a line as long as it likes");
}
