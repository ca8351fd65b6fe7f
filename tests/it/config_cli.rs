//! The command line: help, exit codes, configuration with and without a file, and what is said about its faults.

use std::path::Path;

use crate::support::client::Call;
use crate::support::process::{Ended, Process, run};

fn folder(config: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    if let Some(config) = config {
        std::fs::write(folder.path().join("config.yaml"), config).expect("it can be written to");
    }
    folder
}

async fn check(folder: &Path, environment: &[(&str, &str)]) -> Ended {
    run(folder, &["check-config"], environment).await
}

#[tokio::test]
async fn help_fits_a_screen() {
    let folder = folder(None);
    let help = run(folder.path(), &["--help"], &[]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.lines().count() <= 30, "{}", help.stdout);
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 100), "{}", help.stdout);
    for command in ["serve", "check-config"] {
        assert!(help.stdout.contains(command), "{}", help.stdout);
        let own = run(folder.path(), &[command, "--help"], &[]).await;
        assert_eq!(own.code, Some(0), "{command}");
        assert!(own.stdout.contains("--listen") && own.stdout.contains("--config"), "{}", own.stdout);
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2() {
    let folder = folder(None);
    for arguments in [&[][..], &["serv"], &["serve", "--port", "1"], &["check-config", "extra"]] {
        let ended = run(folder.path(), arguments, &[]).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert!(ended.stdout.is_empty() && ended.stderr.contains("Usage"), "{arguments:?}: {ended:?}");
    }
    let typed = run(folder.path(), &["serv"], &[]).await;
    assert!(typed.stderr.contains("serve"), "the nearest command is not named: {}", typed.stderr);
}

#[tokio::test]
async fn an_unknown_key_names_line_column_and_the_nearest_one() {
    let folder = folder(Some("http:\n  listen: 127.0.0.1:0\nstorage:\n  max_sise: 5GiB\n"));
    for command in ["check-config", "serve"] {
        let ended = run(folder.path(), &[command], &[]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        for said in ["config.yaml:4:3", "max_sise", "max_size"] {
            assert!(ended.stderr.contains(said), "{said} is not in: {}", ended.stderr);
        }
    }
    assert!(!folder.path().join("data").exists(), "a store was made in spite of it");
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let folder = folder(Some("http:\n  lisen: x\ncache:\n  max_size: lots\npush:\n  sparse: maybe\n"));
    let ended = check(folder.path(), &[("ENTREPOT_LOG__LEVEL", "info"), ("ENTREPOT_STORAGE__MAX_SIZE", "-5")]).await;
    assert_eq!(ended.code, Some(2));
    for said in ["lisen", "lots", "maybe", "ENTREPOT_STORAGE__MAX_SIZE"] {
        assert!(ended.stderr.contains(said), "{said} is not in: {}", ended.stderr);
    }
}

#[tokio::test]
async fn what_is_checked_is_printed_and_means_the_same_again() {
    let first = folder(Some("push: {sparse: refuse}\nupstreams:\n  ghcr.io: {username: me, password: geheim-123}\n"));
    let printed = check(first.path(), &[]).await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.stdout.contains("sparse: refuse") && printed.stdout.contains("ghcr.io"), "{}", printed.stdout);
    assert!(!format!("{printed:?}").contains("geheim"), "a secret was printed");
    let json = run(first.path(), &["check-config", "--json"], &[]).await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("it is JSON");
    assert_eq!(json["config"]["push"]["sparse"], "refuse");

    let plain = folder(Some("push: {sparse: refuse}\n"));
    let printed = check(plain.path(), &[]).await.stdout;
    let again = folder(Some(&printed));
    assert_eq!(check(again.path(), &[]).await.stdout, printed);
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = folder(Some("http: {listen: 127.0.0.1:1001}\nlog: {level: warn}\n"));
    let listen = async |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["check-config", "--json"], arguments].concat();
        let printed = run(folder.path(), &arguments, environment).await;
        let json: serde_json::Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
        json["config"]["http"]["listen"].as_str().expect("an address").to_owned()
    };
    let variable = [("ENTREPOT_HTTP__LISTEN", "127.0.0.1:1002")];
    assert_eq!(listen(&[], &[]).await, "127.0.0.1:1001");
    assert_eq!(listen(&[], &variable).await, "127.0.0.1:1002");
    assert_eq!(listen(&["--listen", "127.0.0.1:1003"], &variable).await, "127.0.0.1:1003");
}

#[tokio::test]
async fn a_file_that_was_named_must_exist() {
    let folder = folder(None);
    let ended = run(folder.path(), &["check-config", "--config", "absent.yaml"], &[]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("absent.yaml"), "{}", ended.stderr);
}

#[tokio::test]
async fn it_serves_without_any_file() {
    let folder = folder(None);
    let process = Process::serve(folder.path(), &[]).await;
    for path in ["/v2/", "/healthz", "/readyz"] {
        assert_eq!(process.send(Call::get(path)).await.status(), 200, "{path}");
    }
    assert!(folder.path().join("data").is_dir(), "the store is where the documentation says");
    process.terminate();
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0));
    assert!(log.iter().any(|line| line.contains("\"default_upstream\":\"docker.io\"")), "{log:#?}");
}

#[tokio::test]
async fn a_store_that_must_exist_is_not_made() {
    let folder = folder(Some("storage: {create: false}\n"));
    let ended = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"], &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("data") && ended.stderr.contains("create"), "{}", ended.stderr);
    assert!(!folder.path().join("data").exists());
}
