//! Robots: names for programs, each with a token of its own that says what it may do. Few, so all of them are in memory; the
//! index has them for the next start.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use secrecy::SecretString;
use tracing::error;

use super::Error;
use super::policy::{Grant, Permission, Permissions};
use super::secret::{digest_of, mark_of, new_secret};
use crate::metadata::{Metadata, RobotRow};

/// What a robot's user name begins with: no user's has a plus sign.
pub const ROBOT_PREFIX: &str = "robot+";
/// What a robot's token begins with.
const TOKEN_PREFIX: &str = "entrepot_robot_";
/// Robots at most.
pub const ROBOTS_MAX: usize = 10_000;

/// What is wanted of a new robot.
#[derive(Clone, Debug)]
pub struct NewRobot {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub allow: Permissions,
    /// Where: patterns of repositories.
    pub repositories: Vec<String>,
    /// For how long; for ever, without.
    pub lifetime: Option<Duration>,
}

/// A robot, without its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Robot {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub allow: Permissions,
    /// Where.
    pub repositories: Vec<String>,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// When it ends; never, without.
    pub expires_ms: Option<i64>,
}

/// Why a robot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    /// The name is no name.
    #[error("a robot's name has 1 to 64 lower-case letters, digits, `.`, `-` and `_`")]
    Name,
    /// There is nothing that it may do.
    #[error("say what the robot may do: --allow pull, push or delete, and in which repositories")]
    Nothing,
    /// A pattern is none.
    #[error("`{pattern}` is not a pattern of repositories")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// There is one already.
    #[error("there is a robot {name} already: revoke it first")]
    Exists {
        /// The name.
        name: String,
    },
    /// Too many.
    #[error("there are {ROBOTS_MAX} robots already: revoke some")]
    Many,
    /// The index failed.
    #[error(transparent)]
    Auth(#[from] Error),
}

#[derive(Debug)]
struct Known {
    robot: Robot,
    grant: Grant,
    digest: Vec<u8>,
    mark: String,
}

/// All robots.
#[derive(Debug)]
pub struct Robots {
    known: RwLock<BTreeMap<String, Known>>,
    metadata: Metadata,
}

impl Robots {
    /// Those in the index.
    pub async fn open(metadata: Metadata) -> Result<Self, Error> {
        let known = metadata.list_robots().await?.into_iter().filter_map(|row| {
            let name = row.name.clone();
            let known = Known::of(row);
            if known.is_none() {
                error!(robot = name, "a robot in the index cannot be read; it is let in no more");
            }
            known.map(|known| (name, known))
        });
        Ok(Self { known: RwLock::new(known.collect()), metadata })
    }

    /// Makes a robot. Its token is told here and never again.
    pub async fn create(&self, wanted: NewRobot, now_ms: i64) -> Result<(Robot, SecretString), RobotError> {
        let NewRobot { name, allow, repositories, lifetime } = wanted;
        if !is_name(&name) {
            return Err(RobotError::Name);
        }
        if allow.is_empty() || repositories.is_empty() {
            return Err(RobotError::Nothing);
        }
        globs(&repositories)?;
        if self.known().len() >= ROBOTS_MAX {
            return Err(RobotError::Many);
        }
        let token = new_secret(TOKEN_PREFIX);
        let words: Vec<&str> = allow.iter().map(Permission::as_str).collect();
        let lifetime_ms = lifetime.map(|lifetime| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
        let row = RobotRow {
            name: name.clone(),
            digest: digest_of(&token),
            allowed: words.join(","),
            repositories: repositories.join("\n"),
            created_ms: now_ms,
            expires_ms: lifetime_ms.map(|lifetime_ms| now_ms.saturating_add(lifetime_ms)),
        };
        if !self.metadata.insert_robot(row.clone()).await.map_err(Error::from)? {
            return Err(RobotError::Exists { name });
        }
        let known = Known::of(row).ok_or(RobotError::Name)?;
        let robot = known.robot.clone();
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(name, known);
        Ok((robot, token))
    }

    /// Every robot, by name.
    pub fn list(&self) -> Vec<Robot> {
        self.known().values().map(|known| known.robot.clone()).collect()
    }

    /// Lets a robot in no more, from now on. False if there is none of that name.
    pub async fn revoke(&self, name: &str) -> Result<bool, Error> {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(self.metadata.delete_robot(name).await?)
    }

    /// What a robot may do, if there is one of that name and mark and its time has not come.
    pub(super) fn grant(&self, name: &str, mark: Option<&str>, now_ms: i64) -> Option<Grant> {
        let known = self.known();
        let known = known.get(name).filter(|known| mark == Some(&known.mark) && known.is_alive(now_ms));
        known.map(|known| known.grant.clone())
    }

    /// What tells a robot from an earlier one of the same name.
    pub(super) fn mark(&self, name: &str) -> Option<String> {
        self.known().get(name).map(|known| known.mark.clone())
    }

    /// The same for who shows its token. A name that is not there costs what one does that is.
    pub(super) fn admit(&self, name: &str, token: &SecretString, now_ms: i64) -> Option<Grant> {
        let shown = digest_of(token);
        let known = self.known();
        let known = known.get(name);
        let digest = known.map_or(&[0; 32][..], |known| &known.digest);
        let fits = verify_slices_are_equal(digest, &shown).is_ok();
        known.filter(|known| fits && known.is_alive(now_ms)).map(|known| known.grant.clone())
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(row: RobotRow) -> Option<Self> {
        let words: Vec<&str> = row.allowed.split(',').collect();
        let allow = Permission::ALL.into_iter().filter(|permission| words.contains(&permission.as_str())).collect();
        let repositories: Vec<String> = row.repositories.lines().map(str::to_owned).collect();
        let grant = Grant { repositories: globs(&repositories).ok()?, allow };
        let (created_ms, expires_ms) = (row.created_ms, row.expires_ms);
        Some(Self {
            robot: Robot { name: row.name, allow, repositories, created_ms, expires_ms },
            grant,
            mark: mark_of(&row.digest),
            digest: row.digest,
        })
    }

    fn is_alive(&self, now_ms: i64) -> bool {
        self.robot.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_letter)
}

/// As patterns of the configuration: `*` stays within one component, `**` crosses them.
fn globs(patterns: &[String]) -> Result<GlobSet, RobotError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let invalid = |_| RobotError::Pattern { pattern: pattern.clone() };
        if pattern.contains('\n') || pattern.is_empty() {
            return Err(RobotError::Pattern { pattern: pattern.clone() });
        }
        set.add(GlobBuilder::new(pattern).literal_separator(true).build().map_err(invalid)?);
    }
    set.build().map_err(|_| RobotError::Pattern { pattern: patterns.join(" ") })
}
