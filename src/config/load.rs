//! Finds the file, lays environment and flags over it, and hands out the one configuration of this process.

#![expect(clippy::disallowed_methods, reason = "this is where the environment and the configuration file are read")]

use std::{
    env as process_env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, ServeFlags,
    diagnose::{Error, Problem},
    env,
    keys::{HOST, KEYS},
    raw::{self, Raw},
    read::read,
    tree::{KeyPath, Node, Origin, Value},
    validate::{Check, ReadSecret},
    yaml::{self, Source},
};

/// Read when it exists and no other file is named.
const FILE_DEFAULT: &str = "./config.yaml";

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Arc<Config>,
    /// The file it was read from; `None` when there was none and the built-in defaults hold.
    pub file: Option<PathBuf>,
    /// What is accepted but unlikely to be meant.
    pub warnings: Arc<[Problem]>,
}

/// Loads the configuration of this process: file, then environment, then `flags`.
///
/// The file is the one of `--config`, else of `ENTREPOT_CONFIG`, else `./config.yaml` if there is one. A file that was
/// named must exist.
pub fn load(flags: &ServeFlags) -> Result<LoadedConfig, Error> {
    load_from(flags.clone(), process_env::vars_os().collect(), Path::new(FILE_DEFAULT))
}

/// [`load`] with its surroundings as arguments.
pub(super) fn load_from(
    flags: ServeFlags,
    variables: Vec<(OsString, OsString)>,
    file_default: &Path,
) -> Result<LoadedConfig, Error> {
    let file = match flags.config.clone().or_else(|| file_in(&variables)) {
        Some(path) => Some(read_file(&path)?),
        None => match read_file(file_default) {
            Ok(file) => Some(file),
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        },
    };
    let layers = Layers { file, variables, flags };
    let (config, warnings) = assemble(&layers, secret_from_file)?;
    Ok(LoadedConfig {
        config: Arc::new(config),
        file: layers.file.map(|(path, _)| path),
        warnings: Arc::from(warnings),
    })
}

fn file_in(variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    variables
        .iter()
        .find(|(name, value)| name.eq_ignore_ascii_case(env::FILE_VARIABLE) && !value.is_empty())
        .map(|(_, value)| PathBuf::from(value))
}

fn read_file(path: &Path) -> Result<(PathBuf, String), Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok((path.to_owned(), text)),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// The content of a `password_file`.
pub(super) fn secret_from_file(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// What the configuration is made of; later fields win.
#[derive(Default)]
pub(super) struct Layers {
    pub file: Option<(PathBuf, String)>,
    pub variables: Vec<(OsString, OsString)>,
    pub flags: ServeFlags,
}

/// The configuration that `layers` make, and its warnings. Touches no disk but through `read_secret`.
pub(super) fn assemble(layers: &Layers, read_secret: ReadSecret) -> Result<(Config, Vec<Problem>), Error> {
    let mut problems = Vec::new();
    let mut tree = match &layers.file {
        None => Node::empty_map(Origin::Default),
        Some((path, text)) => yaml::parse(text, &Source::File(Arc::from(path.as_path())))
            .map_err(|problem| Error::Invalid(vec![problem]))?,
    };
    drop_empty(&mut tree);
    raw::default_upstreams(&mut tree);
    env::set_on(&mut tree, &layers.variables, &mut problems);
    layers.flags.set_on(&mut tree);
    let raw: Raw = read(&mut tree, &mut problems);
    // Rules between values would blame the wrong one while some could not be read.
    if !problems.is_empty() {
        return Err(Error::invalid(problems));
    }
    let mut check = Check::new(&tree, read_secret);
    let config = check.config(raw);
    if check.problems.is_empty() { Ok((config, check.warnings)) } else { Err(Error::invalid(check.problems)) }
}

/// A key with nothing after it counts as not written: that is what remains when its value is commented out.
fn drop_empty(tree: &mut Node) {
    let hosts: Vec<String> = tree.keys_of(&KeyPath::of(&["upstreams"])).map(str::to_owned).collect();
    let paths = KEYS.iter().flat_map(|(path, _)| match path {
        [section, HOST, key] => hosts.iter().map(|host| KeyPath::of(&[section, host, key])).collect(),
        path => vec![KeyPath::of(path)],
    });
    for path in paths {
        if matches!(tree.get(&path).map(|node| &node.value), Some(Value::Null)) {
            tree.remove(&path);
        }
    }
}
