//! The flags that override common keys; every command that reads the configuration takes them.

use std::path::PathBuf;

use super::tree::{Node, Origin};

/// The configuration file and what overrides it.
///
/// Values are texts here and read by the same rules as the file's, so that an error says the same.
#[expect(clippy::doc_markdown, reason = "the comments of the fields are the help text, where backticks are noise")]
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ServeFlags {
    /// Configuration file [default: ./config.yaml if there is one; env: ENTREPOT_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [http.listen]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Directory of blobs and index [storage.path]
    #[arg(long, value_name = "DIRECTORY")]
    pub storage_path: Option<String>,
    /// Bound of cached bytes, such as 50GiB or 40% [cache.max_size]
    #[arg(long, value_name = "SIZE")]
    pub cache_max_size: Option<String>,
    /// Ask no upstream, serve what is here [offline]
    #[arg(long)]
    pub offline: bool,
    /// A level (error, warn, info, debug, trace) or filter [log.level]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, text or json [log.format]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Where tests end the process: a point of `fault::CRASH_POINTS`, `@2` for the second time it is come to.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "POINT")]
    pub crash_at: Option<String>,
}

impl ServeFlags {
    /// Sets what was given upon the tree.
    pub(super) fn set_on(&self, tree: &mut Node) {
        let offline = self.offline.then(|| "true".to_owned());
        let given: [(&'static str, &[&str], &Option<String>); 6] = [
            ("--listen", &["http", "listen"], &self.listen),
            ("--storage-path", &["storage", "path"], &self.storage_path),
            ("--cache-max-size", &["cache", "max_size"], &self.cache_max_size),
            ("--offline", &["offline"], &offline),
            ("--log-level", &["log", "level"], &self.log_level),
            ("--log-format", &["log", "format"], &self.log_format),
        ];
        for (flag, keys, value) in given {
            if let Some(value) = value {
                let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
                tree.set(&keys, Node::scalar(value, Origin::Flag(flag)));
            }
        }
    }
}
