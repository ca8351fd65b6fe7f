//! Environment variables that set keys: `ENTREPOT_HTTP__LISTEN` is `http.listen`, in any case of letters.
//!
//! `__` goes one level deeper. An upstream is named by its host with every `.`, `-` and `:` written `_`, which has to
//! fit exactly one configured upstream: `ENTREPOT_UPSTREAMS__GHCR_IO__USERNAME`. `ENTREPOT_LOG` is `log.level`;
//! `ENTREPOT_CONFIG` names the file. An empty variable counts as not set, as compose files produce such.
//! Any other variable with our prefix is an error, but for those Kubernetes makes for a Service of our name.

use std::{collections::BTreeMap, ffi::OsString, sync::Arc};

use super::{
    diagnose::{Fault, Problem, nearest},
    keys::{HOST, KEYS, Shape},
    tree::{KeyPath, Node, Origin},
    yaml::{self, Source},
};

const PREFIX: &str = "ENTREPOT_";

/// The variable that names the configuration file.
pub(super) const FILE_VARIABLE: &str = "ENTREPOT_CONFIG";

/// Sets every variable that has our prefix upon the tree.
pub(super) fn set_on(tree: &mut Node, variables: &[(OsString, OsString)], problems: &mut Vec<Problem>) {
    // Sorted, so that the outcome does not depend on the order of the environment; and `ENTREPOT_UPSTREAMS` comes
    // before the variables of single upstreams, which it decides about.
    let mut ours: Vec<(String, &OsString)> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value)))
        .filter(|(name, value)| is_ours(name) && !value.is_empty())
        .collect();
    ours.sort_by_cached_key(|(name, _)| name.to_uppercase());
    let mut set_by: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for (name, value) in ours {
        match assignment(tree, &name, value) {
            Err(problem) => problems.push(problem),
            Ok((keys, _)) if let Some(other) = set_by.get(&keys) => {
                problems.push(problem(&name, Fault::VariableTwice { other: other.clone() }));
            }
            Ok((keys, node)) => {
                remove_other_password(tree, &keys, &set_by);
                tree.set(&keys, node);
                set_by.insert(keys, name);
            }
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        && !name.eq_ignore_ascii_case(FILE_VARIABLE)
        && !is_service_link(&name[PREFIX.len()..])
}

/// Kubernetes gives every pod `NAME_SERVICE_HOST`, `NAME_PORT`, `NAME_PORT_5000_TCP_ADDR` … for each Service `NAME`;
/// a Service called entrepot must not keep its own pods from starting. No key of ours looks like these.
fn is_service_link(rest: &str) -> bool {
    let is_numbered = |port: &str| port.starts_with(|c: char| c.is_ascii_digit()) && !port.contains("__");
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest == "PORT"
        || rest.strip_prefix("PORT_").is_some_and(is_numbered)
}

/// Which keys a variable sets, and to what.
fn assignment(tree: &Node, name: &str, value: &OsString) -> Result<(Vec<String>, Node), Problem> {
    let (keys, shape) = resolve(tree, &name[PREFIX.len()..]).map_err(|fault| problem(name, fault))?;
    let text = value.to_str().ok_or_else(|| problem(name, Fault::NotUnicode))?;
    let variable: Arc<str> = Arc::from(name);
    let node = match shape {
        Shape::Scalar => Node::scalar(text, Origin::Variable(variable)),
        Shape::List | Shape::Map => yaml::parse(text, &Source::Variable(variable))?,
    };
    Ok((keys, node))
}

fn problem(name: &str, fault: Fault) -> Problem {
    Problem { origin: Origin::Variable(Arc::from(name)), path: KeyPath::default(), fault }
}

/// The keys that `rest`, a name without our prefix, stands for.
fn resolve(tree: &Node, rest: &str) -> Result<(Vec<String>, Shape), Fault> {
    let lower = rest.to_lowercase();
    let lower = if lower == "log" { "log__level" } else { lower.as_str() };
    let of_upstream = lower.strip_prefix("upstreams__").and_then(|inner| inner.rsplit_once("__"));
    for (path, shape) in KEYS {
        match (path, of_upstream) {
            ([section, HOST, key], Some((host, last))) if *key == last => {
                let host = configured_upstream(tree, host)?;
                return Ok((vec![(*section).to_owned(), host, last.to_owned()], *shape));
            }
            ([_, HOST, _], _) => {}
            (path, _) if path.join("__") == lower => {
                return Ok((path.iter().map(|key| (*key).to_owned()).collect(), *shape));
            }
            _ => {}
        }
    }
    Err(Fault::UnknownVariable { nearest: nearest_name(tree, rest, of_upstream) })
}

/// The variable that `rest` was most likely meant to be; the parts that are right anyway do not count as likeness.
fn nearest_name(tree: &Node, rest: &str, of_upstream: Option<(&str, &str)>) -> Option<String> {
    if let Some((host, key)) = of_upstream {
        let known = KEYS.iter().filter_map(|(path, _)| if let [_, HOST, key] = path { Some(*key) } else { None });
        return nearest(key, known).map(|key| format!("{PREFIX}UPSTREAMS__{host}__{key}").to_uppercase());
    }
    let known = known_names(tree);
    nearest(rest, known.iter().map(String::as_str)).map(|name| format!("{PREFIX}{name}"))
}

/// The one configured upstream whose host reads `part` in a variable.
fn configured_upstream(tree: &Node, part: &str) -> Result<String, Fault> {
    let known: Vec<String> = tree.keys_of(&KeyPath::of(&["upstreams"])).map(str::to_owned).collect();
    let mut fitting: Vec<String> = known.iter().filter(|host| in_variable(host) == part).cloned().collect();
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        0 => Err(Fault::UnknownUpstream { part: part.to_owned(), known }),
        _ => Err(Fault::AmbiguousUpstream { part: part.to_owned(), fitting }),
    }
}

/// A host as it is written in the name of a variable, in lower case.
fn in_variable(host: &str) -> String {
    host.to_lowercase().replace(['.', '-', ':'], "_")
}

/// Every variable that would be accepted, without our prefix.
fn known_names(tree: &Node) -> Vec<String> {
    let hosts: Vec<String> = tree.keys_of(&KeyPath::of(&["upstreams"])).map(in_variable).collect();
    let name = |path: &[&str]| path.join("__").to_uppercase();
    let mut names = vec!["CONFIG".to_owned(), "LOG".to_owned()];
    for (path, _) in KEYS {
        match path {
            [section, HOST, key] => names.extend(hosts.iter().map(|host| name(&[section, host, key]))),
            path => names.push(name(path)),
        }
    }
    names
}

/// A password from the environment replaces the file's, whichever of the two ways each was given.
fn remove_other_password(tree: &mut Node, keys: &[String], set_by: &BTreeMap<Vec<String>, String>) {
    let [section, host, key] = keys else { return };
    let other = match key.as_str() {
        "password" => "password_file",
        "password_file" => "password",
        _ => return,
    };
    if !set_by.contains_key(&[section.clone(), host.clone(), other.to_owned()][..]) {
        tree.remove(&KeyPath::of(&[section, host, other]));
    }
}
