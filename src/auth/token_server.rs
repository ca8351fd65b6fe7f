//! Tokens of a token server that is not ours (Distribution's "Token Authentication Implementation"): what they are good for is
//! what it has written into them, as far as our rules allow that to whom it names.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::Refusal;
use super::jwt::{self, Claims, Fault, KeySet};
use super::policy::{Permission, Permissions};
use super::remembered::Remembered;
use super::tokens::Ticket;

/// Somebody who says who is who and who may do what.
#[derive(Clone, Debug)]
pub struct TokenServer {
    /// What its tokens have as `iss`.
    issuer: String,
    /// What signs them.
    keys: KeySet,
    verified: Arc<Remembered>,
}

/// One entry of the claim `access`.
#[derive(Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    actions: Vec<String>,
}

impl TokenServer {
    /// One that calls itself `issuer`, and whose tokens one of `keys` signs.
    pub fn new(issuer: String, keys: KeySet) -> Self {
        Self { issuer, keys, verified: Arc::new(Remembered::new()) }
    }

    /// What `token` is good for at `service`. Its subject is the name of a user, or empty.
    pub fn verify(&self, token: &str, service: &str, now_ms: i64) -> Result<Arc<Ticket>, Refusal> {
        let refused = |fault| Refusal::Foreign { of: "auth.token_server".to_owned(), fault };
        if let Some(ticket) = self.verified.find(token, service) {
            if jwt::is_over(ticket.expires_ms, now_ms) {
                self.verified.remove(token);
                return Err(refused(Fault::Expired));
            }
            return Ok(ticket);
        }
        let ticket = Arc::new(self.read(token, service, now_ms).map_err(refused)?);
        self.verified.insert(token, Arc::clone(&ticket));
        Ok(ticket)
    }

    fn read(&self, token: &str, service: &str, now_ms: i64) -> Result<Ticket, Fault> {
        let wanted = jwt::wanted(token)?;
        let claims = jwt::verified(token, &wanted, &self.keys).map_err(|fault| match fault {
            Fault::Key | Fault::Signature if wanted.brings_chain() => Fault::Chain,
            fault => fault,
        })?;
        let expires_ms = jwt::check(&claims, &self.issuer, service, now_ms)?;
        let subject = jwt::subject(&claims, "sub")?.unwrap_or_default();
        let mut ticket = Ticket::of_another(subject, service, expires_ms);
        for Access { kind, name, actions } in access(&claims)? {
            match kind.as_str() {
                "repository" => {
                    let entry: &mut Permissions = ticket.access.entry(name).or_default();
                    *entry = entry.or(permissions(&actions));
                }
                "registry" if name == "catalog" => ticket.lists |= actions.iter().any(|action| action == "*"),
                _ => {}
            }
        }
        Ok(ticket)
    }
}

fn access(claims: &Claims) -> Result<Vec<Access>, Fault> {
    match claims.get("access") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(access) => Vec::deserialize(access).map_err(|_| Fault::Claim { claim: "access".to_owned() }),
    }
}

fn permissions(actions: &[String]) -> Permissions {
    let is_named =
        |permission: &Permission| actions.iter().any(|action| action == permission.as_str() || action == "*");
    Permission::ALL.into_iter().filter(is_named).collect()
}

impl Ticket {
    /// What may be done in the repository that is called `names`. Ours have its first name; another token server knows it by
    /// the one that its client has used.
    pub(super) fn permissions(&self, names: &[String]) -> Permissions {
        let known_by = if self.is_of_another { names } else { &names[..names.len().min(1)] };
        let issued = |name: &String| self.access.get(name).copied().unwrap_or_default();
        known_by.iter().map(issued).fold(Permissions::NONE, Permissions::or)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_knows_a_repository_by_any_of_its_names_and_we_by_the_first() {
        let names = ["docker.io/library/nginx", "library/nginx", "nginx"].map(str::to_owned);
        for (name, of_ours) in [("docker.io/library/nginx", Permissions::PULL), ("nginx", Permissions::NONE)] {
            let mut foreign = Ticket::of_another("alice", "registry.test", 0);
            foreign.access.insert(name.to_owned(), Permissions::PULL);
            assert_eq!(foreign.permissions(&names), Permissions::PULL, "{name}");
            assert_eq!(foreign.permissions(&["other".to_owned()]), Permissions::NONE);
            assert_eq!(foreign.permissions(&[]), Permissions::NONE);
            let mut ours = foreign.clone();
            ours.is_of_another = false;
            assert_eq!(ours.permissions(&names), of_ours, "{name}");
        }
    }
}
