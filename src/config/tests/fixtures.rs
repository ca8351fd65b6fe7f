//! Every file of `fixtures/config`: the good with the effective configuration beside them, the bad with their errors.

use std::fs;

use super::{
    super::{Identity, Password, Route, Upstream, Webhook, WebhookUrl},
    ServeFlags, assembled, checked, from_text,
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/config");

/// The YAML files of a fixture directory, each with its name, its text and the expected text beside it.
fn fixtures(directory: &str, extension: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<_> = fs::read_dir(format!("{FIXTURES}/{directory}"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let expected = fs::read_to_string(path.with_extension(extension)).unwrap_or_default();
            (name, fs::read_to_string(path).unwrap(), expected)
        })
        .collect();
    found.sort();
    assert!(found.len() > 5, "{directory} has its fixtures");
    found
}

#[test]
fn good_fixtures_have_the_effective_configuration_beside_them() {
    for (name, text, expected) in fixtures("good", "effective") {
        let (config, warnings) =
            assembled(&text, &[], ServeFlags::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let effective = checked(config, warnings, false);
        assert_eq!(effective, expected, "{name}");
    }
}

#[test]
fn bad_fixtures_have_their_errors_beside_them() {
    for (name, text, expected) in fixtures("bad", "stderr") {
        let error = from_text(&text).err().unwrap_or_else(|| panic!("{name} is refused"));
        let error = format!("{error}\n");
        assert_eq!(error, expected, "{name}");
        assert!(!expected.contains("hunter2"), "{name} shows a password");
    }
}

#[test]
fn the_effective_configuration_loads_to_itself() {
    for (name, text, _) in fixtures("good", "effective") {
        let mut config = from_text(&text).unwrap();
        // A secret is printed redacted, so it is the one thing that does not come back.
        config.upstreams.iter_mut().for_each(forget_passwords);
        config.webhooks.iter_mut().for_each(forget_secrets);
        let again = from_text(&checked(config.clone(), Vec::new(), false)).unwrap();
        assert_eq!(again, config, "{name}");
    }
}

/// Leaves what is printed of a receiver.
fn forget_secrets(webhook: &mut Webhook) {
    webhook.url = WebhookUrl(format!("{:?}", webhook.url).parse().unwrap());
    webhook.secret = None;
    webhook.headers.clear();
    if let Route::Through(_) = webhook.route {
        webhook.route = Route::System;
    }
}

/// Leaves what is printed: passwords in files of their own are named, others are not shown.
fn forget_passwords(upstream: &mut Upstream) {
    let further = upstream.further.iter_mut().map(|source| &mut source.identity);
    for identity in std::iter::once(&mut upstream.identity).chain(further) {
        let has_written = match identity {
            Identity::One(one) => matches!(one.password, Password::Written(_)),
            Identity::Several(all) => all.iter().any(|one| matches!(one.password, Password::Written(_))),
            _ => false,
        };
        if has_written {
            *identity = Identity::Anonymous;
        }
    }
}
