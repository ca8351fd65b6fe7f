//! `entrepot check-config`: prints the configuration that would be used, secrets redacted, and what is odd about it.

use std::io::{self, Write};

use crate::config::LoadedConfig;

/// A failure to print; an invalid configuration failed in loading already.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The effective configuration could not be written as YAML.
    #[error("cannot write the configuration as YAML")]
    Yaml(#[source] serde_saphyr::SerializeError),
    /// The effective configuration could not be written as JSON.
    #[error("cannot write the configuration as JSON")]
    Json(#[source] serde_json::Error),
    /// The output was closed or failed.
    #[error("cannot write to the output")]
    Output(#[source] io::Error),
}

/// Prints to `out`: YAML that loads again to the same configuration (but for passwords), or with `json` one object
/// with `file`, `config` and `warnings`. For people the warnings go to `warn` instead.
pub fn run(loaded: &LoadedConfig, json: bool, out: &mut impl Write, warn: &mut impl Write) -> Result<(), Error> {
    if json {
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let object = serde_json::json!({ "file": loaded.file, "config": *loaded.config, "warnings": warnings });
        let text = serde_json::to_string_pretty(&object).map_err(Error::Json)?;
        return writeln!(out, "{text}").map_err(Error::Output);
    }
    let text = serde_saphyr::to_string(&*loaded.config).map_err(Error::Yaml)?;
    let source = loaded.file.as_ref().map_or_else(
        || "no configuration file: built-in defaults".to_owned(),
        |file| format!("configuration file: {}", file.display()),
    );
    writeln!(out, "# {source}, environment, flags\n{}", text.trim_end()).map_err(Error::Output)?;
    for warning in loaded.warnings.iter() {
        writeln!(warn, "warning: {warning}").map_err(Error::Output)?;
    }
    Ok(())
}
