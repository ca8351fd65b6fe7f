//! The one place that lets requests in: who sends them, and whether they may have what they want. It decides by names alone,
//! before anything is looked up, so that what must not be seen and what is not there look alike.

use std::fmt::Write as _;
use std::sync::Arc;

use super::AppState;
use super::admin::foreign_name;
use super::error::ApiError;
use super::pages::{self, Foreign};
use super::request::Asked;
use super::route::Action;
use crate::auth::{Caller, Permission, Refusal, Source, Verdict};
use crate::oci::RepositoryName;
use crate::registry::{Keeps, Registry, Sight};

/// What an action takes.
enum Needed<'a> {
    /// To be somebody who may be here at all.
    Presence,
    /// To see which repositories there are.
    List,
    /// A permission in a repository.
    In(&'a RepositoryName, Permission),
}

const fn needed(action: &Action) -> Needed<'_> {
    use Permission::{Delete, Pull, Push};
    match action {
        Action::Probe => Needed::Presence,
        Action::ListRepositories => Needed::List,
        Action::ListTags { name }
        | Action::PullManifest { name, .. }
        | Action::PullBlob { name, .. }
        | Action::ListReferrers { name, .. } => Needed::In(name, Pull),
        Action::PushManifest { name, .. }
        | Action::StartUpload { name }
        | Action::FindUpload { name, .. }
        | Action::AppendUpload { name, .. }
        | Action::FinishUpload { name, .. }
        | Action::CancelUpload { name, .. } => Needed::In(name, Push),
        Action::DeleteManifest { name, .. } | Action::DeleteBlob { name, .. } => Needed::In(name, Delete),
    }
}

/// Lets a request of the distribution specification in, or says why not.
pub async fn admit(app: &AppState, asked: &mut Asked, action: &Action) -> Result<Caller, ApiError> {
    let (registry, needed) = (&app.registry, needed(action));
    // Whether a page may read an answer is its browser's business.
    let says_no_cache = asked.says_no_cache();
    let is_careful = changes(action) || says_no_cache;
    let page = if is_careful { pages::foreign(asked, &app.cors_origins) } else { None };
    if let Some(page) = page.as_ref().filter(|_| changes(action)) {
        return Err(turned_away(page));
    }
    let mounted = mounted_from(asked, action);
    let door = Door { asked, app, mounted: mounted.as_ref() };
    // What is said to an upstream that shows each client what it lets it see is said to that upstream, not to us.
    let is_relayed = match needed {
        Needed::In(name, _) => registry.guards_anything() && registry.relays_credentials(&asked.target(name)),
        Needed::Presence => registry.challenges(asked.query.first("ns"), asked.host.as_deref()),
        Needed::List => false,
    };
    let caller = if is_relayed {
        app.authority.stranger(&asked.origin())
    } else {
        let identified = app.authority.identify(&asked.presented(), &asked.origin()).await;
        identified.map_err(|refusal| door.refuse(&refusal, &needed))?
    };
    let identity = caller.name();
    let verdict = match needed {
        // Docker's and podman's clients learn here, and only here, how to say who they are.
        Needed::Presence if caller.standing().is_configured && !is_relayed && !caller.has_come_in() => Verdict::No,
        Needed::Presence => Verdict::Yes,
        Needed::List => caller.may_list(),
        Needed::In(name, permission) => caller.may(permission, || registry.known_as(&asked.target(name))),
    };
    // Who may not see where a blob is mounted from uploads it; who only lacks the scope gets to know which one.
    let verdict = match &mounted {
        Some(from) if verdict == Verdict::Yes => {
            let source = caller.may(Permission::Pull, || registry.known_as(&asked.target(from)));
            if source == Verdict::OutOfScope { source } else { verdict }
        }
        _ => verdict,
    };
    if verdict != Verdict::Yes {
        let source = source(app, asked, &caller, action);
        let rule = match (verdict, source) {
            (Verdict::OutOfScope, _) => "token".to_owned(),
            (_, source) => source.unwrap_or(Source::Default).to_string(),
        };
        let refused = door.turn_away(&caller, verdict, &needed).refused_by(rule);
        asked.identity = identity;
        return Err(refused);
    }
    asked.identity = identity;
    asked.sight = sight(registry, &caller, action);
    asked.keeps = keeps(registry, &caller, asked, action);
    asked.insists = says_no_cache && page.is_none() && (app.admin.admit(asked).is_ok() || caller.is_admin());
    Ok(caller)
}

fn turned_away(page: &Foreign) -> ApiError {
    let told = format!(
        "{page}: name the page in http.cors_origins (`*` lets pages read, no more), or use a client that is no browser"
    );
    ApiError::denied(told).refused_by(pages::RULE)
}

/// Lets a request to `/token` in: from no page of somebody else's. By it a page could have the passwords that its browser adds
/// push a user's refresh tokens out, and lock users out by guesses that come from the operator's address.
pub fn admit_to_tokens(app: &AppState, asked: &Asked) -> Result<(), ApiError> {
    pages::foreign(asked, &app.cors_origins).map_or(Ok(()), |page| Err(turned_away(&page)))
}

/// The rule by which administrators are let in.
const ADMINS: &str = "auth.admins";

/// What decides for the caller in what the action is about, as the audit log tells it.
pub fn source(app: &AppState, asked: &Asked, caller: &Caller, action: &Action) -> Option<Source> {
    match needed(action) {
        Needed::Presence | Needed::List => None,
        Needed::In(name, _) => Some(caller.decide(|| app.registry.known_as(&asked.target(name))).source),
    }
}

/// Does it take more than reading?
const fn changes(action: &Action) -> bool {
    match needed(action) {
        Needed::Presence | Needed::List => false,
        Needed::In(_, permission) => !matches!(permission, Permission::Pull),
    }
}

/// Lets a request of the admin API in: from the addresses that may, and of who is an administrator. No page but our own has
/// any business there, whatever it shows: browsers add passwords by themselves. Returns what lets it in.
pub async fn admit_admin(app: &AppState, asked: &mut Asked) -> Result<&'static str, ApiError> {
    if let Some(page) = pages::foreign(asked, &[]) {
        return Err(ApiError::denied(format!("{page}: use entrepot's own commands, or curl")).refused_by(pages::RULE));
    }
    let Err(denied) = app.admin.admit(asked) else { return Ok("http.admin_from") };
    let identified = app.authority.identify(&asked.presented(), &asked.origin()).await;
    let caller = identified.map_err(|refusal| ApiError::refused(&refusal).challenge_basic())?;
    asked.identity = caller.name();
    if caller.is_admin() {
        Ok(ADMINS)
    } else if !caller.standing().is_configured {
        Err(denied.into())
    } else if caller.identity().is_signed_in() {
        Err(ApiError::denied(format!("{} is no administrator (auth.admins)", caller.identity())).refused_by(ADMINS))
    } else {
        let told = format!("log in as an administrator (auth.admins): {denied}");
        Err(ApiError::unauthorized(told).refused_by(ADMINS))
    }
}

/// What the caller sees of repositories that it has not named, or named besides the one that the request is about. The list
/// of repositories shows whatever it could get a token for; what is mounted must be in the token it has.
fn sight(registry: &Arc<Registry>, caller: &Caller, action: &Action) -> Sight {
    if !caller.standing().is_configured {
        return Sight::default();
    }
    let (registry, caller) = (Arc::clone(registry), caller.clone());
    match action {
        Action::ListRepositories => {
            Sight::new(move |name| caller.decide(|| registry.known_by(name)).allowed.has(Permission::Pull))
        }
        Action::StartUpload { .. } | Action::PushManifest { .. } => {
            Sight::new(move |name| caller.may(Permission::Pull, || registry.known_by(name)) == Verdict::Yes)
        }
        _ => Sight::default(),
    }
}

/// The tags that the rules keep from being moved and deleted in the repository that the action is about.
fn keeps(registry: &Registry, caller: &Caller, asked: &Asked, action: &Action) -> Keeps {
    match action {
        Action::PushManifest { name, .. } | Action::DeleteManifest { name, .. }
            if caller.standing().policy.has_immutable_tags() =>
        {
            let (names, caller) = (registry.known_as(&asked.target(name)), caller.clone());
            Keeps::new(move |tag| caller.standing().policy.is_immutable(&names, tag))
        }
        _ => Keeps::default(),
    }
}

/// The other repository that is asked for a blob, if one is.
fn mounted_from(asked: &Asked, action: &Action) -> Option<RepositoryName> {
    let Action::StartUpload { name } = action else { return None };
    asked.query.first("mount")?;
    let from = asked.query.first("from")?.parse().ok()?;
    (from != *name).then_some(from)
}

/// Where somebody is told to stay outside.
struct Door<'a> {
    asked: &'a Asked,
    app: &'a AppState,
    /// From where it wants to mount a blob.
    mounted: Option<&'a RepositoryName>,
}

impl Door<'_> {
    /// Who shows a wrong key is not taken for nobody.
    fn refuse(&self, refusal: &Refusal, needed: &Needed<'_>) -> ApiError {
        let error = matches!(refusal, Refusal::Token | Refusal::Foreign { .. }).then_some("invalid_token");
        ApiError::refused(refusal).challenge(self.challenge(needed, error))
    }

    fn turn_away(&self, caller: &Caller, verdict: Verdict, needed: &Needed<'_>) -> ApiError {
        let wanted = match needed {
            Needed::Presence => "use this registry".to_owned(),
            Needed::List => "list the repositories of this registry".to_owned(),
            Needed::In(name, permission) => format!("{} {name}", permission.as_str()),
        };
        if !caller.standing().is_configured {
            let why = match self.asked.reached_by() {
                Some(host) if self.asked.is_from_here() && !self.asked.is_well_named => foreign_name(host),
                _ => "without `auth` in the registry's configuration that takes a request which its own machine sends \
                      straight to it"
                    .to_owned(),
            };
            return ApiError::denied(format!("you may not {wanted}: {why}"));
        }
        match verdict {
            Verdict::OutOfScope => {
                let answer = ApiError::new_unauthorized(format!("the token is not for that: get one to {wanted}"));
                answer.challenge(self.challenge(needed, Some("insufficient_scope")))
            }
            // A client that has a password, too, shows it only when it is told to.
            _ if caller.is_by_certificate() => {
                let answer = ApiError::new_unauthorized(format!(
                    "the certificate of {} is not enough: log in to {wanted}",
                    caller.identity()
                ));
                answer.challenge(self.challenge(needed, None))
            }
            _ if caller.identity().is_signed_in() => {
                ApiError::denied(format!("{} may not {wanted}", caller.identity()))
            }
            _ => ApiError::new_unauthorized(format!("log in to {wanted}")).challenge(self.challenge(needed, None)),
        }
    }

    /// Says where to get a token, and for what (RFC 6750, 3; Distribution's "Token Authentication Specification").
    fn challenge(&self, needed: &Needed<'_>, error: Option<&str>) -> String {
        let standing = self.app.authority.standing();
        let realm = standing.realm.clone().or_else(|| self.asked.origin_url().map(|url| format!("{url}/token")));
        // Without a name for us there is nowhere to go; the password itself is good, too.
        let Some(realm) = realm else { return "Basic realm=\"entrepot\"".to_owned() };
        let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", standing.service);
        let scope = match needed {
            Needed::Presence => None,
            Needed::List => Some("registry:catalog:*".to_owned()),
            Needed::In(name, permission) => {
                // Whoever pushes asks what is there already.
                let actions = if *permission == Permission::Push { "pull,push" } else { permission.as_str() };
                let from = self.mounted.map(|from| format!(" repository:{}:pull", self.name_for_token(from)));
                Some(format!("repository:{}:{actions}{}", self.name_for_token(name), from.unwrap_or_default()))
            }
        };
        for (key, value) in [("scope", scope.as_deref()), ("error", error)] {
            if let Some(value) = value {
                let _ = write!(challenge, ",{key}=\"{value}\"");
            }
        }
        challenge
    }

    /// The repository's name as the token service will understand it, which is not told of `?ns=`, nor, if it is elsewhere, of
    /// the Host header.
    fn name_for_token(&self, name: &RepositoryName) -> String {
        let target = self.asked.target(name);
        if target.ns.is_none() && self.app.authority.standing().realm.is_none() {
            return name.to_string();
        }
        self.app.registry.known_as(&target)[0].clone()
    }
}
