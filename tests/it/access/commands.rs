//! Commands that ask a server which asks who they are.

use tempfile::TempDir;

use super::*;
use crate::support::process::{run, run_with_input};
use crate::support::registry::manifest_path;

/// A folder with a file `login` for alice, one with a wrong password, and one that is none.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (file, text) in [
        ("login", format!("alice:{PASSWORD}\n")),
        ("wrong", "alice:guess\n".to_owned()),
        ("none", "alice\n".to_owned()),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    folder
}

#[tokio::test]
async fn images_are_exported_and_imported_by_those_who_may() {
    let registry = secured(auth()).await;
    let (folder, server) = (folder(), format!("http://{}", registry.address()));
    let export = ["export", "team-a/app:v1", "--to", "out", "--server", &server];
    let refused = run(folder.path(), &export, &[]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--login-file"), "it does not say what to do: {}", refused.stderr);
    let wrong = run(folder.path(), &[&export[..], &["--login-file", "wrong"]].concat(), &[]).await;
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    let done = run(folder.path(), &[&export[..], &["--login-file", "login"]].concat(), &[]).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);

    let import = ["import", "out", "--to", "team-a/copy", "--server", &server, "--login-file", "-"];
    let done = run_with_input(folder.path(), &import, format!("alice:{PASSWORD}").into_bytes()).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let copy = as_user(Call::get(&manifest_path("team-a/copy", "v1")), "alice");
    assert_eq!(registry.send(copy).await.status(), 200);
    registry.finish().await;
}

#[tokio::test]
async fn a_password_is_neither_taken_from_what_is_none_nor_sent_where_all_can_read_it() {
    let folder = folder();
    for (server, file, says) in [
        ("http://mirror.lan:5000", "login", "use https://"),
        ("http://127.0.0.1:1", "none", "NAME:PASSWORD"),
        ("http://127.0.0.1:1", "missing", "missing"),
    ] {
        let ended = run(folder.path(), &["gc", "--server", server, "--login-file", file], &[]).await;
        assert_eq!(ended.code, Some(1), "{server} {file}");
        assert!(ended.stderr.contains(says) && !ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    }
}
