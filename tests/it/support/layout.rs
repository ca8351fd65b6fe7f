//! OCI image layouts as other tools would find and make them: plain files, and tar archives written by hand.

use std::path::{Path, PathBuf};

use entrepot::oci::Digest;
use serde_json::{Value, json};

use super::process::{Ended, run_with_input};
use super::push::digest_of;
use super::registry::TestRegistry;

pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Runs a command against a running registry and expects it to succeed.
pub async fn done(registry: &TestRegistry, folder: &Path, arguments: &[&str]) -> Ended {
    let ended = tried(registry, folder, arguments, Vec::new()).await;
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    ended
}

/// Runs a command against a running registry and expects it to fail. Returns what it says.
pub async fn refused(registry: &TestRegistry, folder: &Path, arguments: &[&str]) -> String {
    let ended = tried(registry, folder, arguments, Vec::new()).await;
    assert_eq!(ended.code, Some(1), "{arguments:?}: {} {}", ended.stdout, ended.stderr);
    ended.stderr
}

pub async fn tried(registry: &TestRegistry, folder: &Path, arguments: &[&str], input: Vec<u8>) -> Ended {
    let url = registry.url("");
    run_with_input(folder, &[arguments, &["--server", &url]].concat(), input).await
}

/// Where a layout has a blob.
pub fn blob_file(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

/// What `index.json` says.
pub fn index_of(layout: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(layout.join("index.json")).expect("there is an index.json");
    let index: Value = serde_json::from_str(&text).expect("it is JSON");
    index["manifests"].as_array().expect("it has manifests").clone()
}

/// The names a layout gives, in order.
pub fn names_in(layout: &Path) -> Vec<String> {
    let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = index_of(layout).iter().map(name).collect();
    names.sort();
    names
}

/// The digests of all files in a layout, which are what they are named after.
pub fn blobs_in(layout: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        for entry in std::fs::read_dir(layout.join("blobs").join(algorithm)).expect("it has blobs") {
            let path = entry.expect("it can be listed").path();
            let digest: Digest =
                format!("{algorithm}:{}", path.file_name().unwrap().to_str().unwrap()).parse().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(Digest::of(digest.algorithm(), &bytes), digest, "{}", path.display());
            found.push(digest);
        }
    }
    found.sort();
    found
}

/// Members of an archive made by hand, so that it may be whatever no honest program writes.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// An archive with `oci-layout` and an `index.json` of these manifests.
    pub fn of(entries: &[Value]) -> Self {
        Self::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index(entries).as_bytes())
    }

    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        let mut this = self.member(name, b'0', bytes.len() as u64);
        this.0.extend_from_slice(bytes);
        this.0.resize(this.0.len().next_multiple_of(512), 0);
        this
    }

    pub fn blob(self, bytes: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", digest_of(bytes).hex()), bytes)
    }

    /// A header alone.
    pub fn member(mut self, name: &str, kind: u8, size_bytes: u64) -> Self {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size_bytes:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        if matches!(kind, b'1' | b'2') {
            header[157..168].copy_from_slice(b"/etc/passwd");
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An `index.json`.
pub fn index(entries: &[Value]) -> String {
    json!({ "schemaVersion": 2, "manifests": entries }).to_string()
}

/// What an `index.json` says of a manifest with a name.
pub fn entry(media_type: &str, bytes: &[u8], name: &str) -> Value {
    let mut entry = super::push::descriptor(media_type, bytes);
    entry["annotations"] = json!({ REF_NAME: name });
    entry
}
