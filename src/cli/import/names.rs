//! From the names in a layout to the repositories that content goes to. Pure.

use std::str::FromStr;

use crate::oci::{NameInvalid, Reference, RepositoryName, Tag, WrittenReference};

/// Where content goes that the layout names otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `mirror/`: below this prefix, under the whole name.
    Under(String),
    /// `team/app`: into this repository, whatever the layout says.
    Into(RepositoryName),
    /// `docker.io/library/=base/`: one beginning instead of another.
    Replace {
        /// The beginning.
        from: String,
        /// What stands there instead.
        to: String,
    },
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag that names it there; by its digest alone if there is none.
    pub tag: Option<Tag>,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// A tag, or an image without a name.
    #[error("{shown} is in no repository: say which with --to NAME")]
    NoRepository {
        /// What the layout calls it.
        shown: String,
    },
    /// What the rules make of it is no name.
    #[error("{shown} would be {made}, which is no name: {source}")]
    Invalid {
        /// What the layout calls it.
        shown: String,
        /// What became of it.
        made: String,
        /// Why that is none.
        source: NameInvalid,
    },
}

impl FromStr for Rule {
    type Err = NameInvalid;

    fn from_str(text: &str) -> Result<Self, NameInvalid> {
        if let Some((from, to)) = text.split_once('=') {
            return Ok(Self::Replace { from: from.to_owned(), to: to.to_owned() });
        }
        match text.strip_suffix('/') {
            // The prefix has to be a name itself.
            Some(prefix) => prefix.parse::<RepositoryName>().map(|_| Self::Under(text.to_owned())),
            None => text.parse().map(Self::Into),
        }
    }
}

/// Where the image goes that the layout calls `name`: the first rule that says something of it holds.
pub fn place(rules: &[Rule], name: Option<&str>) -> Result<Place, NoPlace> {
    let shown = name.unwrap_or("an image without a name").to_owned();
    let whole =
        name.filter(|name| name.contains(['/', ':', '@'])).and_then(|name| name.parse::<WrittenReference>().ok());
    let tag = match &whole {
        Some(written) => match written.reference() {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        },
        None => name.and_then(|name| name.parse().ok()),
    };
    let into = rules.iter().find_map(|rule| match rule {
        Rule::Into(repository) => Some(repository.clone()),
        Rule::Under(_) | Rule::Replace { .. } => None,
    });
    let Some(written) = whole else {
        return into.map(|repository| Place { repository, tag }).ok_or(NoPlace::NoRepository { shown });
    };
    let text = written.name.as_str();
    let made = rules.iter().find_map(|rule| match rule {
        Rule::Into(repository) => Some(repository.to_string()),
        Rule::Under(prefix) => Some(format!("{prefix}{text}")),
        Rule::Replace { from, to } => text.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
    });
    let Some(made) = made else { return Ok(Place { repository: written.name, tag }) };
    match made.parse() {
        Ok(repository) => Ok(Place { repository, tag }),
        Err(source) => Err(NoPlace::Invalid { shown, made, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_go_where_they_came_from_unless_a_rule_says_otherwise() {
        let by_digest = format!("ghcr.io/org/app@{DIGEST}");
        for (rules, name, expected) in [
            (&[][..], "docker.io/library/nginx:1.27", Some("docker.io/library/nginx:1.27")),
            (&[], "nginx:1.27", Some("nginx:1.27")),
            (&[], "team/app", Some("team/app:latest")),
            (&[], &by_digest, Some("ghcr.io/org/app")),
            (&[], "1.27", None),
            (&["team/app"], "1.27", Some("team/app:1.27")),
            (&["team/app"], "docker.io/library/nginx:1.27", Some("team/app:1.27")),
            (&["mirror/"], "docker.io/library/nginx:1", Some("mirror/docker.io/library/nginx:1")),
            (&["mirror/"], "localhost:5000/app:1", None),
            (&["docker.io/library/=base/"], "docker.io/library/nginx:1", Some("base/nginx:1")),
            (&["docker.io/library/=base/"], "ghcr.io/org/app:1", Some("ghcr.io/org/app:1")),
            (&["ghcr.io/=a/", "docker.io/=b/"], "docker.io/library/nginx:1", Some("b/library/nginx:1")),
            (&["ghcr.io/=a/", "rest/"], "docker.io/nginx:1", Some("rest/docker.io/nginx:1")),
        ] {
            let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            let placed = place(&rules, Some(name)).ok();
            let shown = placed.map(|Place { repository, tag }| match tag {
                Some(tag) => format!("{repository}:{tag}"),
                None => repository.to_string(),
            });
            assert_eq!(shown.as_deref(), expected, "{name} by {rules:?}");
        }
        assert!(place(&[], None).is_err());
        assert!("Team/".parse::<Rule>().is_err() && "".parse::<Rule>().is_err());
    }
}
