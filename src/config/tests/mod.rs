//! The configuration as a whole: fixtures, layers, the shipped file, and text that means nothing.

mod fixtures;
mod layers;
mod nonsense;
mod shipped;

use std::{ffi::OsString, io, path::Path, sync::LazyLock};

use super::{
    Config, Error, Problem, ServeFlags,
    load::{Layers, LoadedConfig, assemble},
};
use crate::cli::check_config;

const SHIPPED: &str = include_str!("../../../config.yaml");

/// A hash as `entrepot hash-password` writes it.
const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuuGsjVJ7bSMCCbQ/6ZSYu7hlyZ7v3DH1O";

/// A certificate and its key, made up at each run.
static IDENTITY: LazyLock<(String, String)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["registry.lan".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
});

fn secret(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/run/secrets/token") => Ok("s3cret\n".to_owned()),
        Some("/run/secrets/acme") => Ok("-_8H\n".to_owned()),
        Some("/run/secrets/empty") => Ok("\n".to_owned()),
        Some(
            "/etc/ssl/lan.pem"
            | "/etc/entrepot/auth.crt"
            | "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
            | "server.crt"
            | "clients-ca.crt",
        ) => Ok(IDENTITY.0.clone()),
        Some("/run/secrets/lan.key" | "server.key") => Ok(IDENTITY.1.clone()),
        Some("/etc/entrepot/htpasswd") => Ok(format!("alice:{BCRYPT}\nbob:{BCRYPT}\n")),
        Some("/etc/entrepot/plain") => Ok("alice:hunter2\n".to_owned()),
        Some("/run/secrets/config.json") => Ok("{\"auths\": {}}".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn assembled(text: &str, variables: &[(&str, &str)], flags: ServeFlags) -> Result<(Config, Vec<Problem>), Error> {
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    assemble(&Layers { file: Some(("config.yaml".into(), text.to_owned())), variables, flags }, secret)
}

pub(super) fn from_text(text: &str) -> Result<Config, Error> {
    assembled(text, &[], ServeFlags::default()).map(|(config, _)| config)
}

fn from_env(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    assembled(text, variables, ServeFlags::default()).map(|(config, _)| config).map_err(|error| error.to_string())
}

fn checked(config: Config, warnings: Vec<Problem>, json: bool) -> String {
    let loaded = LoadedConfig { config: config.into(), file: None, warnings: warnings.into() };
    let (mut out, mut warn) = (Vec::new(), Vec::new());
    check_config::run(&loaded, json, &mut out, &mut warn).unwrap();
    String::from_utf8([out, warn].concat()).unwrap()
}
