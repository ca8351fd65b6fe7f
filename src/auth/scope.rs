//! Scopes: what a client says that it wants a token for (Distribution's "Token Scope Documentation"). Pure.

use super::policy::{Permission, Permissions};
use crate::oci::RepositoryName;

/// Scopes of one request beyond which the rest is not looked at: a mount has two.
pub const SCOPES_MAX: usize = 64;

/// Something a token is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `repository:NAME:pull,push`
    Repository {
        /// The name, as a path would have it.
        name: RepositoryName,
        /// What is wanted there.
        wanted: Permissions,
    },
    /// `registry:catalog:*`
    List,
}

impl Scope {
    /// Reads one scope; `None` if it is about nothing that there is. A name is read as the name in a path is, so whatever
    /// is no repository's name is no scope.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        // Names hold colons where they begin with a host and its port.
        let (name, actions) = rest.rsplit_once(':')?;
        match kind {
            "repository" => {
                let wanted = actions.split(',').fold(Permissions::NONE, |wanted, action| wanted.or(wanted_by(action)));
                Some(Self::Repository { name: name.parse().ok()?, wanted })
            }
            "registry" if name == "catalog" && actions == "*" => Some(Self::List),
            _ => None,
        }
    }

    /// Reads the scopes of a request: several parameters, each with several scopes between blanks.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let scopes = texts.into_iter().flat_map(|text| text.split(' ')).take(SCOPES_MAX);
        scopes.filter_map(Self::parse).collect()
    }
}

fn wanted_by(action: &str) -> Permissions {
    match action {
        "*" => Permissions::ALL,
        action => Permission::ALL.into_iter().filter(|permission| permission.as_str() == action).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str, wanted: &[Permission]) -> Scope {
        Scope::Repository { name: name.parse().unwrap(), wanted: wanted.iter().copied().collect() }
    }

    #[test]
    fn a_scope_is_a_name_and_what_is_wanted_there() {
        use Permission::{Delete, Pull, Push};
        for (text, scope) in [
            ("repository:library/nginx:pull", repository("library/nginx", &[Pull])),
            ("repository:a/b:push,pull", repository("a/b", &[Pull, Push])),
            ("repository:a/b:*", repository("a/b", &[Pull, Push, Delete])),
            ("repository:a/b:pull,fly", repository("a/b", &[Pull])),
            ("repository:a/b:", repository("a/b", &[])),
            ("repository:registry.lan:5000/a:pull", repository("registry.lan:5000/a", &[Pull])),
            ("registry:catalog:*", Scope::List),
        ] {
            assert_eq!(Scope::parse(text), Some(scope), "{text}");
        }
    }

    #[test]
    fn tricks_with_names_are_no_scopes() {
        for text in [
            "",
            "repository",
            "repository:a",
            "repository::pull",
            "repository:*:pull",
            "repository:a/*:pull",
            "repository:a/**:pull",
            "repository:A:pull",
            "repository:a/:pull",
            "repository:/a:pull",
            "repository:a/../b:pull",
            "repository:a//b:pull",
            "repository:a%2fb:pull",
            "repository:a\u{0}:pull",
            "repository(plugin):a:pull",
            "REPOSITORY:a:pull",
            "registry:catalog:pull",
            "registry:*:*",
            "registry:catalog ",
        ] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
    }

    #[test]
    fn scopes_come_in_several_parameters_and_between_blanks() {
        let all = Scope::parse_all(["repository:a:pull repository:b:pull", "nonsense", "repository:c:push"]);
        assert_eq!(all.len(), 3);
        let many = vec!["repository:a:pull"; 1000];
        assert_eq!(Scope::parse_all(many).len(), SCOPES_MAX);
    }
}
