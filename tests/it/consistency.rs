//! A check of a store finds each thing that may be wrong with it, and nothing else.

use std::path::{Path, PathBuf};

use entrepot::oci::Digest;
use entrepot::tasks::check::Kind;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::consistency::findings;
use crate::support::content;
use crate::support::process::Process;
use crate::support::registry::folder;

fn file(store: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    store.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// A store at rest with one pushed blob.
async fn stored(folder: &Path) -> (PathBuf, Digest) {
    let process = Process::serve(folder, &[]).await;
    let bytes = content(20_000, 1);
    let digest = Digest::of(entrepot::oci::Algorithm::Sha256, &bytes);
    let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let answer = process.send(crate::support::client::Call::new("POST", &path).body(bytes)).await;
    assert_eq!(answer.status(), 201);
    process.terminate();
    process.ended().await;
    (folder.join("data"), digest)
}

async fn execute(store: &Path, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(store.join("index.sqlite")).foreign_keys(false);
    let mut connection = options.connect().await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn told(store: &Path) -> Vec<(Kind, String)> {
    findings(store, None).await.iter().map(|finding| (finding.kind(), finding.to_string())).collect()
}

#[tokio::test]
async fn a_check_finds_what_is_wrong_with_the_files() {
    let folder = folder();
    let (store, digest) = stored(folder.path()).await;
    assert_eq!(told(&store).await, []);
    let file = file(&store, &digest);
    let whole = std::fs::read(&file).unwrap();

    let mut wrong = whole.clone();
    wrong[7] ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    let found = told(&store).await;
    assert!(
        matches!(&found[..], [(Kind::Damage, line)] if line.starts_with("the bytes of the pushed blob")),
        "{found:?}"
    );
    std::fs::write(&file, &whole[..100]).unwrap();
    let found = told(&store).await;
    assert!(found.iter().any(|(kind, line)| *kind == Kind::Damage && line.contains("100 bytes on disk")), "{found:?}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(told(&store).await, [(Kind::Damage, format!("the file of the pushed blob {digest} is gone"))]);
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(told(&store).await, []);

    let unknown = file.with_file_name(format!("{}{}", &digest.hex()[..2], "0".repeat(62)));
    for path in [
        unknown,
        file.with_extension("part"),
        store.join("staging/puts/x"),
        store.join("staging/fills/x"),
        store.join("staging/uploads/00000000-0000-4000-8000-000000000000"),
        store.join(format!("staging/fills/sha256-{}.front", digest.hex())),
    ] {
        std::fs::write(&path, b"x").unwrap();
        let found = told(&store).await;
        assert!(matches!(&found[..], [(Kind::Leftover, _)]), "{}: {found:?}", path.display());
        std::fs::remove_file(&path).unwrap();
    }
    // A fill that can be continued is nothing wrong.
    std::fs::write(store.join(format!("staging/fills/sha256-{}", digest.hex())), b"x").unwrap();
    assert_eq!(told(&store).await, []);
}

#[tokio::test]
async fn a_check_finds_what_is_wrong_with_the_rows() {
    for (statement, kind, says) in [
        ("UPDATE blob SET state = 2", Kind::Leftover, "begun and not ended"),
        ("UPDATE blob SET pushed = 0", Kind::Damage, "counts as cached"),
        ("UPDATE blob SET state = 0, stored_bytes = 0", Kind::Damage, "nobody was told"),
        ("UPDATE blob SET stored_bytes = 4096", Kind::Disorder, "are counted"),
        ("UPDATE blob_sum SET n_blobs = n_blobs + 1", Kind::Disorder, "its rows make"),
        ("UPDATE manifest_sum SET n_manifests = 7", Kind::Disorder, "keeps 7"),
        ("UPDATE upstream_list_sum SET body_bytes = 7", Kind::Disorder, "bytes of lists"),
        ("UPDATE repository SET private = 0", Kind::Damage, "is not private: team/app"),
        ("DELETE FROM repository", Kind::Damage, "leads to no repository"),
        ("DELETE FROM blob", Kind::Damage, "leads to no blob"),
    ] {
        let folder = folder();
        let (store, _) = stored(folder.path()).await;
        execute(&store, statement).await;
        let found = told(&store).await;
        let is_told = found.iter().any(|(found, line)| *found == kind && line.contains(says));
        assert!(is_told, "{statement}: {found:?}");
    }
}
