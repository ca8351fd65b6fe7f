//! From the configuration of an upstream to the options of its client.

use crate::clock::Clock;
use crate::config::{self, Config, Identity, Password};
use crate::metrics::Metrics;
use crate::upstream::{Account, Credentials, Options, Programs, Route, SourceOptions, Tls};

/// The options of one upstream's client.
pub fn options(
    configured: &config::Upstream,
    config: &Config,
    clock: &Clock,
    metrics: &Metrics,
) -> anyhow::Result<Options> {
    let config::Patience { timeout, lifetime } = configured.patience;
    let programs = Programs { folder: None, timeout, lifetime };
    let source = |url: &url::Url, identity: &Identity| SourceOptions {
        url: url.clone(),
        accounts: accounts(identity, &programs),
    };
    let first = source(&configured.url, &configured.identity);
    let further = configured.further.iter().map(|further| source(&further.url, &further.identity));
    Ok(Options {
        sources: std::iter::once(first).chain(further).collect(),
        send_ns: configured.send_ns,
        realms: configured.realms.clone(),
        tls: tls(&configured.tls),
        route: route(&configured.route),
        connections_max: configured.connections_max,
        connect_timeout: configured.connect_timeout,
        first_byte_timeout: configured.first_byte_timeout,
        no_progress_timeout: configured.no_progress_timeout,
        retries: configured.retries,
        manifest_bytes_max: usize::try_from(config.push.manifest_max_bytes).unwrap_or(usize::MAX),
        clock: clock.clone(),
        metrics: metrics.clone(),
        ..Options::new(configured.name.parse()?, configured.url.clone())
    })
}

fn accounts(identity: &Identity, programs: &Programs) -> Vec<Account> {
    match identity {
        Identity::Anonymous => Vec::new(),
        Identity::One(credentials) => vec![account(credentials)],
        Identity::Several(all) => all.iter().map(account).collect(),
        Identity::DockerConfig(file) => vec![Account::DockerConfig { file: file.clone(), programs: programs.clone() }],
        Identity::Helper(name) => vec![Account::Program { name: name.clone(), programs: programs.clone() }],
    }
}

fn account(credentials: &config::Credentials) -> Account {
    let username = credentials.username.clone();
    match &credentials.password {
        Password::Written(password) => Account::Fixed(Credentials { username, password: password.clone() }),
        Password::File(file) => Account::PasswordFile { username, file: file.clone() },
    }
}

/// The way there.
pub fn route(configured: &config::Route) -> Route {
    match configured {
        config::Route::System => Route::System,
        config::Route::Direct => Route::Direct,
        config::Route::Through(url) => Route::Through(url.clone()),
    }
}

/// Whom to believe, and who we are.
pub fn tls(configured: &config::Tls) -> Tls {
    use secrecy::ExposeSecret as _;
    let text = |pem: &config::Pem| pem.text.expose_secret().to_owned();
    let identity = configured.certificate.as_ref().zip(configured.key.as_ref());
    Tls {
        ca: configured.ca.as_ref().map(text),
        identity: identity.map(|(certificate, key)| format!("{}\n{}", text(certificate), text(key)).into()),
        insecure: configured.insecure,
    }
}
