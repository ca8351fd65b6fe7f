//! The disk as it fails in real life: full, gone, or refusing everything. Pulls are answered as far as anybody can, pushes are
//! refused for what it is, `/readyz` says so, and all is well again when the disk is.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use bytes::Bytes;
use entrepot::oci::Digest;
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::content;
use crate::support::process::Process;
use crate::support::push::digest_of;
use crate::support::upstream::FakeUpstream;

/// In name spaces of its own: mounts `data`, then serves, while a shell beside it does to the mount what it is told.
const SCRIPT: &str = r#"
mkdir -p data aside && mount -t tmpfs -o size=16m none data && mount --bind data aside || exit 77
exec 3<&0
(while read -r line <&3; do eval "$line" >/dev/null 2>&1; echo "$?"; done) 2>/dev/null &
exec "$@"
"#;

/// The real binary on a small file system of its own.
struct OwnDisk {
    folder: TempDir,
    process: Process,
    commands: ChildStdin,
    results: BufReader<ChildStdout>,
}

impl OwnDisk {
    /// `None` where no file system may be mounted, which is said.
    async fn start(fake: &FakeUpstream) -> Option<Self> {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let probe = ["-rm", "sh", "-c", "mount -t tmpfs none /tmp"];
        if !Command::new("unshare").args(probe).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: unshare and tmpfs are not permitted here, so that no disk can be filled or unmounted");
            return None;
        }
        let upstream = format!("{{url: \"{}\", default: true, prefetch: off}}", fake.base_url());
        let config = format!(
            "upstreams: {{hub.example: {upstream}}}\nlocal_only: [\"team/**\"]\n\
             storage: {{min_free: 0}}\ncache: {{max_size: 6MiB}}\n"
        );
        std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", SCRIPT, "sh", env!("CARGO_BIN_EXE_entrepot")]);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("unshare was there a moment ago");
        let commands = child.stdin.take().expect("it is piped");
        let results = BufReader::new(child.stdout.take().expect("it is piped"));
        let process = Process::of(child).await.unwrap_or_else(|said| panic!("it did not start: {said}"));
        Some(Self { folder, process, commands, results })
    }

    /// Has the shell do something.
    fn run(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the shell reads");
        let mut status = String::new();
        self.results.read_line(&mut status).expect("the shell answers");
        assert_eq!(status.trim(), "0", "{command}");
    }

    async fn push(&self, bytes: &Bytes) -> (u16, String) {
        let path = format!("/v2/team/app/blobs/uploads/?digest={}", digest_of(bytes));
        let answer = self.process.send(Call::new("POST", &path).body(bytes.clone())).await;
        (answer.status(), if answer.body.is_empty() { String::new() } else { answer.code() })
    }

    async fn assert_pulled(&self, repository: &str, digest: &Digest, bytes: &Bytes, when: &str) -> String {
        let answer = self.process.send(Call::get(&format!("/v2/{repository}/blobs/{digest}"))).await;
        assert!(answer.looks_complete() && answer.body == *bytes, "{when}: {} {:?}", answer.status(), answer.head);
        answer.cache().to_owned()
    }

    /// Waits until `/readyz` says what is wanted; it looks once in a second.
    async fn until_ready(&self, status: u16, warning: Option<&str>) {
        let asking = async {
            loop {
                let answer = self.process.send(Call::get("/readyz")).await;
                let said = answer.json()["warning"].as_str().map(str::to_owned);
                let is_said = warning.is_none_or(|warning| said.as_ref().is_some_and(|said| said.contains(warning)));
                if answer.status() == status && is_said {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), asking).await.expect("it says so in time");
    }

    async fn stop(self) {
        let Self { process, commands, .. } = self;
        drop(commands);
        process.terminate();
        let (code, log) = process.ended().await;
        assert_eq!(code, Some(0), "{log:#?}");
    }
}

#[tokio::test]
async fn a_full_disk_fails_no_pull_and_refuses_pushes_for_what_it_is() {
    let fake = FakeUpstream::start().await;
    let blobs: Vec<Bytes> = (1..4).map(|n| content(1_000_000, n).into()).collect();
    let digests: Vec<Digest> = blobs.iter().map(|bytes| fake.push_blob("library/app", bytes.clone())).collect();
    let Some(mut disk) = OwnDisk::start(&fake).await else { return };
    disk.assert_pulled("library/app", &digests[0], &blobs[0], "before").await;
    let pushed = Bytes::from(content(500_000, 9));
    assert_eq!(disk.push(&pushed).await.0, 201);

    disk.run("dd if=/dev/zero of=data/ballast bs=4k; true");
    let was = disk.assert_pulled("library/app", &digests[1], &blobs[1], "full, not cached").await;
    assert_eq!(was, "bypass");
    assert_eq!(disk.assert_pulled("library/app", &digests[0], &blobs[0], "full, cached").await, "hit");
    disk.assert_pulled("team/app", &digest_of(&pushed), &pushed, "full, pushed").await;
    assert_eq!(disk.push(&Bytes::from(content(500_000, 10))).await, (507, "STORAGE_FULL".to_owned()));
    disk.until_ready(200, Some("full")).await;

    disk.run("rm data/ballast");
    assert_eq!(disk.push(&Bytes::from(content(500_000, 10))).await.0, 201);
    disk.assert_pulled("library/app", &digests[1], &blobs[1], "healed").await;
    let before = fake.requests().blobs_got(&digests[1]);
    disk.assert_pulled("library/app", &digests[1], &blobs[1], "healed").await;
    assert_eq!(fake.requests().blobs_got(&digests[1]), before, "it is kept again");
    disk.until_ready(200, None).await;
    disk.stop().await;
}

#[tokio::test]
async fn a_store_that_is_unmounted_while_serving_is_missed_and_written_to_nowhere_else() {
    let fake = FakeUpstream::start().await;
    let bytes = Bytes::from(content(300_000, 1));
    let digest = fake.push_blob("library/app", bytes.clone());
    let Some(mut disk) = OwnDisk::start(&fake).await else { return };
    let pushed = Bytes::from(content(100_000, 9));
    assert_eq!(disk.push(&pushed).await.0, 201);

    disk.run("umount -l data");
    disk.until_ready(503, None).await;
    // The index is asked over connections that are open, or can be opened no more: then the pull fails, and says so.
    let cold = disk.process.send(Call::get(&format!("/v2/library/app/blobs/{digest}"))).await;
    match cold.status() {
        200 => assert!(cold.complete && cold.body == bytes && cold.cache() == "bypass"),
        status => assert_eq!((status, cold.code().as_str()), (500, "UNKNOWN")),
    }
    let (status, code) = disk.push(&Bytes::from(content(100_000, 10))).await;
    assert!(status >= 500 && !code.is_empty(), "{status} {code}");
    let missed = disk.process.send(Call::get(&format!("/v2/team/app/blobs/{}", digest_of(&pushed)))).await;
    assert_eq!((missed.status(), missed.code().as_str()), (500, "UNKNOWN"), "what is missing was taken for lost");
    assert_eq!(entries(&disk.folder.path().join("data")).unwrap(), 0, "written below the mount point");

    disk.run("mount --bind aside data");
    disk.until_ready(200, None).await;
    disk.assert_pulled("team/app", &digest_of(&pushed), &pushed, "mounted again").await;
    assert_eq!(disk.push(&Bytes::from(content(100_000, 10))).await.0, 201);
    disk.stop().await;
}

fn entries(folder: &Path) -> io::Result<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}
