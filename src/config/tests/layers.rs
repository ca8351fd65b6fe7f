//! File, environment and flags over one another; secrets in all of them.

use std::{fs, path::Path};

use secrecy::ExposeSecret;

use super::{
    super::{Credentials, Identity, Limit, LogFormat, Password, Upstream, load::load_from},
    Config, Error, LoadedConfig, ServeFlags, assembled, checked, from_env,
};

fn password_of(upstream: &Upstream) -> &str {
    match &upstream.identity {
        Identity::One(Credentials { password: Password::Written(password), .. }) => password.expose_secret(),
        other => panic!("the upstream has a password, not {other:?}"),
    }
}

#[test]
fn variables_win_over_the_file_and_flags_over_variables() {
    let file = "http: {listen: 127.0.0.1:1, shutdown_grace: 1s}\nlog: {level: warn}\n";
    let variables = [("ENTREPOT_HTTP__LISTEN", "127.0.0.1:2"), ("entrepot_log", "debug"), ("ENTREPOT_OFFLINE", "True")];
    let flags = ServeFlags { listen: Some("127.0.0.1:3".to_owned()), ..ServeFlags::default() };
    let (config, _) = assembled(file, &variables, flags).unwrap();
    assert_eq!(config.http.listen.port(), 3);
    assert_eq!(config.http.shutdown_grace.as_secs(), 1);
    assert_eq!(config.log.level, "debug");
    assert!(config.offline);
}

#[test]
fn every_flag_sets_its_key() {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        flags: ServeFlags,
    }
    let line = "entrepot --config c.yaml --listen [::]:1 --storage-path /s --cache-max-size 1GiB --offline \
                --log-level debug --log-format json";
    let command = <Command as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap();
    assert_eq!(command.flags.config.as_deref(), Some(Path::new("c.yaml")));
    let (config, _) = assembled("", &[], command.flags).unwrap();
    assert_eq!(config.http.listen.to_string(), "[::]:1");
    assert_eq!(config.storage.path, Path::new("/s"));
    assert_eq!(config.cache.max_size, Limit::Bytes(1 << 30));
    assert!(config.offline);
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
}

#[test]
fn lists_and_maps_are_yaml_in_variables_and_scalars_are_taken_as_they_are() {
    let config = from_env(
        "",
        &[
            ("ENTREPOT_OVERLAY", "[library/**, 'team/*']"),
            ("ENTREPOT_UPSTREAMS", "{r.lan: {username: me}}"),
            ("ENTREPOT_UPSTREAMS__R_LAN__PASSWORD", "[a: #b"),
        ],
    )
    .unwrap();
    assert_eq!(config.overlay, ["library/**", "team/*"]);
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(password_of(&config.upstreams[0]), "[a: #b");
}

#[test]
fn an_upstream_is_named_by_its_host_with_underscores() {
    let set = ("ENTREPOT_UPSTREAMS__GHCR_IO__RETRIES", "7");
    let config = from_env("", &[set]).unwrap();
    assert_eq!(config.upstreams.len(), 7, "the built-in upstreams stay");
    assert_eq!(config.upstreams.iter().find(|upstream| upstream.name == "ghcr.io").unwrap().retries, 7);
    let config =
        from_env("upstreams: {'my-reg.lan:5000': {}}", &[("ENTREPOT_UPSTREAMS__MY_REG_LAN_5000__RETRIES", "7")]);
    assert_eq!(config.unwrap().upstreams[0].retries, 7);
    insta::assert_snapshot!(from_env("upstreams: {a.b: {}}", &[set]).unwrap_err(), @r"ENTREPOT_UPSTREAMS__GHCR_IO__RETRIES: `ghcr_io` is no configured upstream (there are: a.b); add it in the file, or set all of ENTREPOT_UPSTREAMS, because a variable cannot tell `.`, `-` and `:` apart");
    insta::assert_snapshot!(
        from_env("upstreams: {a.b: {}, a-b: {}}", &[("ENTREPOT_UPSTREAMS__A_B__RETRIES", "7")]).unwrap_err(), @r"ENTREPOT_UPSTREAMS__A_B__RETRIES: `a_b` may be any of a.b, a-b; set it in the file");
}

#[test]
fn a_variable_that_names_no_key_is_refused_with_the_nearest_that_does() {
    let refused = |name| from_env("", &[(name, "x")]).unwrap_err();
    insta::assert_snapshot!(refused("ENTREPOT_HTTP_LISTEN"), @r"ENTREPOT_HTTP_LISTEN: names no key of the configuration; did you mean ENTREPOT_HTTP__LISTEN?");
    insta::assert_snapshot!(refused("ENTREPOT_UPSTREAMS__GHCR_IO__USER"), @r"ENTREPOT_UPSTREAMS__GHCR_IO__USER: names no key of the configuration; did you mean ENTREPOT_UPSTREAMS__GHCR_IO__USERNAME?");
    insta::assert_snapshot!(refused("ENTREPOT_UPSTREAMS_QUAY_IO_RETRIES"), @r"ENTREPOT_UPSTREAMS_QUAY_IO_RETRIES: names no key of the configuration; did you mean ENTREPOT_UPSTREAMS__QUAY_IO__RETRIES?");
    insta::assert_snapshot!(refused("ENTREPOT_XYZZY"), @r"ENTREPOT_XYZZY: names no key of the configuration");
}

#[test]
fn a_wrong_value_names_its_variable_or_flag() {
    insta::assert_snapshot!(from_env("", &[("ENTREPOT_CACHE__MAX_SIZE", "50 apples")]).unwrap_err(), @r"ENTREPOT_CACHE__MAX_SIZE: cache.max_size: `50 apples` is not a size such as 50GiB, 500MB or 1048576, or a share from 1% to 100%");
    insta::assert_snapshot!(from_env("", &[("ENTREPOT_OVERLAY", "[a")]).unwrap_err(), @r"ENTREPOT_OVERLAY: not valid YAML: unclosed bracket '['");
    insta::assert_snapshot!(from_env("", &[("ENTREPOT_LOCAL_ONLY", "['a[']")]).unwrap_err(), @r"ENTREPOT_LOCAL_ONLY: local_only[0]: `a[` is not a pattern: unclosed character class; missing ']'");
    let flags = ServeFlags { log_format: Some("xml".to_owned()), ..ServeFlags::default() };
    insta::assert_snapshot!(assembled("", &[], flags).unwrap_err().to_string(), @r"--log-format: log.format: `xml` is not one of auto, text, json");
}

#[test]
fn one_key_is_set_by_one_variable() {
    insta::assert_snapshot!(from_env("", &[("ENTREPOT_LOG", "info"), ("entrepot_log__level", "warn")]).unwrap_err(), @r"entrepot_log__level: sets the same key as ENTREPOT_LOG");
}

#[test]
fn empty_and_foreign_variables_and_those_of_kubernetes_are_ignored() {
    let ignored = [
        ("ENTREPOT_HTTP__LISTEN", ""),
        ("ENTREPOT_CONFIG", "x"),
        ("PATH", "x"),
        ("ENTREPOTS", "x"),
        ("ENTREPOT_SERVICE_HOST", "10.0.0.1"),
        ("ENTREPOT_SERVICE_PORT", "5000"),
        ("ENTREPOT_SERVICE_PORT_HTTP", "5000"),
        ("ENTREPOT_PORT", "tcp://10.0.0.1:5000"),
        ("ENTREPOT_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("ENTREPOT_PORT_5000_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(from_env("", &ignored).unwrap(), Config::default());
}

#[test]
fn a_password_from_the_environment_replaces_the_files_password_file() {
    let file = "upstreams: {a.b: {username: me, password_file: /run/secrets/missing}}";
    let config = from_env(file, &[("ENTREPOT_UPSTREAMS__A_B__PASSWORD", "x")]).unwrap();
    assert_eq!(password_of(&config.upstreams[0]), "x");
    let both = [("ENTREPOT_UPSTREAMS__A_B__PASSWORD", "x"), ("ENTREPOT_UPSTREAMS__A_B__PASSWORD_FILE", "y")];
    insta::assert_snapshot!(from_env(file, &both).unwrap_err(), @r"ENTREPOT_UPSTREAMS__A_B__PASSWORD_FILE: upstreams.a.b.password_file: `password` and `password_file` are both given; keep one");
}

#[test]
fn a_password_is_never_printed() {
    let (config, warnings) =
        assembled("upstreams: {a.b: {url: 'http://a.b', username: me, password: hunter2}}", &[], ServeFlags::default())
            .unwrap();
    assert_eq!(warnings.len(), 1);
    let debug = format!("{config:?}");
    let yaml = checked(config.clone(), Vec::new(), false);
    let json = checked(config, warnings, true);
    for printed in [&debug, &yaml, &json] {
        assert!(!printed.contains("hunter2"), "{printed}");
    }
    assert!(yaml.contains("[redacted]") && json.contains("[redacted]"));
}

#[test]
fn passwords_of_accounts_sources_and_proxies_are_never_printed() {
    let file = "upstreams: {a.b: {proxy: 'socks5h://me:hunter2@p.lan:1080', urls: [
        {url: 'https://a.b', accounts: [{username: me, password: hunter2}, {username: you, password: hunter2}]},
        {url: 'https://c.d', username: me, password: hunter2}]}}";
    let (config, warnings) = assembled(file, &[], ServeFlags::default()).unwrap();
    let debug = format!("{config:?}");
    let yaml = checked(config.clone(), Vec::new(), false);
    let json = checked(config, warnings, true);
    for printed in [&debug, &yaml, &json] {
        assert!(!printed.contains("hunter2"), "{printed}");
    }
    assert!(yaml.contains("socks5h://p.lan:1080"), "{yaml}");
    let error = from_env("upstreams: {a.b: {proxy: 'ftp://me:hunter2@p.lan'}}", &[]).unwrap_err();
    assert!(error.contains("upstreams.a.b.proxy") && !error.contains("hunter2"), "{error}");
}

#[test]
fn json_holds_the_file_the_configuration_and_the_warnings() {
    let json: serde_json::Value = serde_json::from_str(&checked(Config::default(), Vec::new(), true)).unwrap();
    assert_eq!(json["config"]["http"]["listen"], "127.0.0.1:5000");
    assert_eq!(json["config"]["upstreams"]["docker.io"]["stale_for"], "forever");
    assert_eq!(json["file"], serde_json::Value::Null);
    assert_eq!(json["warnings"], serde_json::json!([]));
}

/// Loads in a directory whose default file is `config.yaml`.
fn load_in(directory: &Path, flags: ServeFlags, variables: &[(&str, &Path)]) -> Result<LoadedConfig, Error> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
    load_from(flags, variables, &directory.join("config.yaml"))
}

#[test]
fn the_file_is_the_flags_else_the_variables_else_the_default_one_if_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let at = |name: &str| directory.join(name);
    let loaded = load_in(directory, ServeFlags::default(), &[]).unwrap();
    assert_eq!((loaded.file, &*loaded.config), (None, &Config::default()));
    for name in ["config.yaml", "variable.yaml", "flag.yaml"] {
        fs::write(at(name), "offline: true").unwrap();
    }
    let by_variable = [("ENTREPOT_CONFIG", &*at("variable.yaml"))];
    let by_flag = ServeFlags { config: Some(at("flag.yaml")), ..ServeFlags::default() };
    for (flags, variables, name) in [
        (ServeFlags::default(), &[][..], "config.yaml"),
        (ServeFlags::default(), &by_variable[..], "variable.yaml"),
        (by_flag, &by_variable[..], "flag.yaml"),
    ] {
        let loaded = load_in(directory, flags, variables).unwrap();
        assert_eq!(loaded.file, Some(at(name)));
        assert!(loaded.config.offline);
    }
}

#[test]
fn a_file_that_is_named_must_exist() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.yaml");
    let error = load_in(directory.path(), ServeFlags::default(), &[("ENTREPOT_CONFIG", &absent)]).unwrap_err();
    assert!(matches!(&error, Error::Read { path, .. } if *path == absent), "{error}");
}

#[test]
fn a_password_file_is_looked_at_in_the_beginning_and_read_later() {
    let directory = tempfile::tempdir().unwrap();
    let (path, password) = (directory.path().join("config.yaml"), directory.path().join("password"));
    fs::write(&path, format!("upstreams: {{a.b: {{username: me, password_file: '{}'}}}}", password.display())).unwrap();
    let error = load_in(directory.path(), ServeFlags::default(), &[]).unwrap_err().to_string();
    assert!(error.contains("upstreams.a.b.password_file: cannot read"), "{error}");
    fs::write(&password, "s3cret\r\n").unwrap();
    let loaded = load_in(directory.path(), ServeFlags::default(), &[]).unwrap();
    let expected = Credentials { username: "me".to_owned(), password: Password::File(password) };
    assert_eq!(loaded.config.upstreams[0].identity, Identity::One(expected));
}
