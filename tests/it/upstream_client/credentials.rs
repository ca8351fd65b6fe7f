//! Credentials that are kept elsewhere: files that change, docker's configuration, programs; and where none of it shows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use entrepot::clock::Clock;
use entrepot::upstream::{Account, Error, Options, Programs, SourceOptions, Upstream};
use tempfile::TempDir;

use super::{REPOSITORY, options, reference, repository};
use crate::support::upstream::{Bearer, FakeUpstream, Guard};

const SECRET: &str = "hunter2-and-more";

async fn with_image(guard: Guard) -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.push_image(REPOSITORY, "1", &[]);
    fake.guard(guard);
    fake
}

fn client_of(fake: &FakeUpstream, account: Account) -> (Upstream, Clock) {
    let clock = Clock::manual();
    let sources = vec![SourceOptions { url: fake.base_url().parse().unwrap(), accounts: vec![account] }];
    (Upstream::new(Options { sources, clock: clock.clone(), ..options(fake) }).unwrap(), clock)
}

async fn pull(upstream: &Upstream) -> Result<(), Error> {
    upstream.head_manifest(&repository(), &reference("1")).await.map(|_| ())
}

fn programs(folder: &Path) -> Programs {
    let (timeout, lifetime) = (Duration::from_secs(10), Duration::from_mins(10));
    Programs { folder: Some(folder.to_owned()), timeout, lifetime }
}

/// A program `docker-credential-NAME` that notes the server it is asked for and then does this. Beside it lies `asked`.
fn program(folder: &TempDir, name: &str, then: &str) -> Account {
    let (path, asked) = (folder.path().join(format!("docker-credential-{name}")), folder.path().join("asked"));
    // Written under another name first: a file that is open for writing cannot be run.
    let script = format!("#!/bin/sh\necho \"$1 $(cat)\" >> '{}'\n{then}\n", asked.display());
    let draft = folder.path().join("draft");
    fs::write(&draft, script).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, path).unwrap();
    Account::Program { name: name.to_owned(), programs: programs(folder.path()) }
}

/// What a program prints that knows a user.
fn says(user: &str, secret: &str) -> String {
    format!(r#"echo '{{"ServerURL":"x","Username":"{user}","Secret":"{secret}"}}'"#)
}

fn times_asked(folder: &TempDir) -> usize {
    fs::read_to_string(folder.path().join("asked")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn pain_29_a_password_that_is_rotated_is_used_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let account = Account::PasswordFile { username: "me".to_owned(), file: file.clone() };
    for bearer in [false, true] {
        let guard = |password| {
            let bearer_guard = Bearer { credentials: Some(("me", password)), uses: Some(1), ..Bearer::default() };
            if bearer { Guard::Bearer(bearer_guard) } else { Guard::Basic("me", password) }
        };
        fs::write(&file, "first\n").unwrap();
        let fake = with_image(guard("first")).await;
        let (upstream, _) = client_of(&fake, account.clone());
        pull(&upstream).await.unwrap();
        fake.guard(guard("second"));
        assert_eq!(pull(&upstream).await.unwrap_err().kind(), "refused");
        fs::write(&file, "second\n").unwrap();
        pull(&upstream).await.unwrap();
        // A file that is gone for a moment is what it was.
        fs::remove_file(&file).unwrap();
        pull(&upstream).await.unwrap();
    }
}

#[tokio::test]
async fn pain_29_a_program_is_asked_for_new_credentials_when_the_old_ones_end() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Basic("AWS", "first")).await;
    let (upstream, clock) = client_of(&fake, program(&folder, "ecr-login", &says("AWS", "first")));
    for _ in 0..3 {
        pull(&upstream).await.unwrap();
    }
    let server = fake.base_url().strip_prefix("http://").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("asked")).unwrap(), format!("get {server}\n"));
    // Its answer is too old.
    clock.advance(Duration::from_mins(10));
    pull(&upstream).await.unwrap();
    assert_eq!(times_asked(&folder), 2);
    // Its answer is refused before that: it is asked once more, and the request is repeated.
    clock.advance(Duration::from_mins(1));
    fake.guard(Guard::Basic("AWS", "second"));
    program(&folder, "ecr-login", &says("AWS", "second"));
    pull(&upstream).await.unwrap();
    assert_eq!(times_asked(&folder), 3);
}

#[tokio::test]
async fn a_program_is_not_run_for_every_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Basic("me", "another")).await;
    let (upstream, _) = client_of(&fake, program(&folder, "pass", &says("me", "wrong")));
    for _ in 0..3 {
        assert_eq!(pull(&upstream).await.unwrap_err().kind(), "refused");
    }
    assert_eq!(times_asked(&folder), 1);
}

#[tokio::test]
async fn many_who_need_credentials_together_ask_the_program_once() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Basic("me", "right")).await;
    let (upstream, _) = client_of(&fake, program(&folder, "pass", &says("me", "right")));
    let pulled = futures::future::join_all((0..8).map(|_| pull(&upstream))).await;
    assert!(pulled.iter().all(Result::is_ok), "{pulled:?}");
    assert_eq!(times_asked(&folder), 1);
}

#[tokio::test]
async fn a_program_that_fails_is_named_and_its_words_are_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Basic("me", SECRET)).await;
    for (then, said) in [
        (format!("echo {SECRET}; exit 3"), "docker-credential-odd ended with exit status: 3"),
        (format!("echo {SECRET}"), "docker-credential-odd answered with no credentials"),
        ("exec sleep 60".to_owned(), "docker-credential-odd gave no answer within 300ms"),
    ] {
        let Account::Program { name, programs } = program(&folder, "odd", &then) else { unreachable!("it is one") };
        let programs = Programs { timeout: Duration::from_millis(300), ..programs };
        // Only the last is meant to be too slow.
        let programs = if then.contains("sleep") { programs } else { self::programs(folder.path()) };
        let (upstream, _) = client_of(&fake, Account::Program { name, programs });
        let error = pull(&upstream).await.unwrap_err();
        assert_eq!(error.kind(), "credentials", "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(said) && !text.contains(SECRET), "{text}");
    }
    let nowhere = Account::Program { name: "absent".to_owned(), programs: programs(folder.path()) };
    let error = pull(&client_of(&fake, nowhere).0).await.unwrap_err().to_string();
    assert!(error.contains("docker-credential-absent cannot be run"), "{error}");
}

#[tokio::test]
async fn who_the_program_does_not_know_is_anonymous() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Bearer(Bearer::default())).await;
    let then = "echo 'credentials not found in native keychain'; exit 1";
    let (upstream, _) = client_of(&fake, program(&folder, "pass", then));
    pull(&upstream).await.unwrap();
    assert_eq!(fake.requests().tokens_got(), 1);
}

#[tokio::test]
async fn dockers_configuration_is_read_as_docker_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Basic("me", "right")).await;
    let server = fake.base_url().strip_prefix("http://").unwrap();
    let file = folder.path().join("config.json");
    program(&folder, "store", &says("me", "right"));
    for config in [
        format!(r#"{{"auths": {{"{server}": {{"auth": "bWU6cmlnaHQ="}}}}}}"#),
        format!(r#"{{"auths": {{"https://{server}/v2/": {{"username": "me", "password": "right"}}}}}}"#),
        format!(r#"{{"credHelpers": {{"{server}": "store"}}, "credsStore": "absent"}}"#),
        r#"{"credsStore": "store"}"#.to_owned(),
    ] {
        fs::write(&file, &config).unwrap();
        let account = Account::DockerConfig { file: file.clone(), programs: programs(folder.path()) };
        pull(&client_of(&fake, account).0).await.unwrap_or_else(|error| panic!("{config}: {error}"));
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_an_access_token_and_goes_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let fake = with_image(Guard::Bearer(Bearer { field: "access_token", ..Bearer::default() })).await;
    let server = fake.base_url().strip_prefix("http://").unwrap();
    let file = folder.path().join("config.json");
    fs::write(&file, format!(r#"{{"auths": {{"{server}": {{"identitytoken": "{SECRET}"}}}}}}"#)).unwrap();
    let (upstream, _) = client_of(&fake, Account::DockerConfig { file, programs: programs(folder.path()) });
    pull(&upstream).await.unwrap();
    let requests = fake.requests();
    let exchange = requests.0.iter().find(|request| request.path == "/token").expect("the token service was asked");
    assert_eq!(exchange.method, "POST");
    for (name, value) in [("grant_type", "refresh_token"), ("refresh_token", SECRET), ("service", "fake")] {
        assert_eq!(exchange.parameter(name).as_deref(), Some(value));
    }
    assert_eq!(exchange.parameter("scope").as_deref(), Some("repository:library/small:pull"));
    let others = requests.0.iter().filter(|request| request.path != "/token");
    assert!(others.into_iter().all(|request| !format!("{:?}", request.headers).contains(SECRET)));
}

#[tokio::test]
async fn another_repositorys_token_is_fetched_without_being_refused_first() {
    let fake = with_image(Guard::Bearer(Bearer::default())).await;
    fake.push_image("library/other", "1", &[]);
    let upstream = Upstream::new(options(&fake)).unwrap();
    pull(&upstream).await.unwrap();
    upstream.head_manifest(&"library/other".parse().unwrap(), &reference("1")).await.unwrap();
    let refusals = fake.requests().0.iter().filter(|request| request.status == 401).count();
    assert_eq!((refusals, fake.requests().tokens_got()), (1, 2));
}

#[tokio::test]
async fn a_token_at_its_end_is_renewed_without_being_refused_first() {
    let fake = with_image(Guard::Bearer(Bearer { expires_in: Some(1), ..Bearer::default() })).await;
    let upstream = Upstream::new(options(&fake)).unwrap();
    pull(&upstream).await.unwrap();
    // The fake goes on taking the first token, so only the client's own watch can make it fetch another.
    while fake.requests().tokens_got() == 1 {
        pull(&upstream).await.unwrap();
    }
    let refusals = fake.requests().0.iter().filter(|request| request.status == 401).count();
    assert_eq!(refusals, 1);
}
