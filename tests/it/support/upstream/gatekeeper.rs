//! How a fake upstream authenticates: not at all, Basic, or Bearer with a token service of its own.

use std::collections::HashMap;

use super::record::Request;

/// The challenge a fake upstream makes.
#[derive(Clone, Default)]
pub enum Guard {
    #[default]
    Open,
    /// User and password.
    Basic(&'static str, &'static str),
    /// Any of these users with their passwords.
    BasicOf(&'static [(&'static str, &'static str)]),
    Bearer(Bearer),
}

/// How tokens are given out.
#[derive(Clone)]
pub struct Bearer {
    /// `expires_in`; left out if none.
    pub expires_in: Option<u64>,
    /// Requests a token is good for; without end if none.
    pub uses: Option<u32>,
    /// User and password the token service wants; anonymous if none.
    pub credentials: Option<(&'static str, &'static str)>,
    /// Name of the token in the answer.
    pub field: &'static str,
    /// Where the challenge sends to, if not here.
    pub realm: Option<String>,
}

impl Default for Bearer {
    fn default() -> Self {
        Self { expires_in: Some(300), uses: None, credentials: None, field: "token", realm: None }
    }
}

#[derive(Default)]
pub struct Gatekeeper {
    pub guard: Guard,
    /// Token → its scope and how often it may be used.
    tokens: HashMap<String, (String, Option<u32>)>,
}

impl Gatekeeper {
    /// `None` if the request may pass, else the value of `WWW-Authenticate`.
    pub fn challenge(&mut self, request: &Request, base_url: &str) -> Option<String> {
        let given = request.header("authorization").unwrap_or_default();
        match &self.guard {
            Guard::Open => None,
            Guard::Basic(user, password) => (given != basic(user, password)).then(|| "Basic realm=\"fake\"".to_owned()),
            Guard::BasicOf(users) => {
                let passes = users.iter().any(|(user, password)| given == basic(user, password));
                (!passes).then(|| "Basic realm=\"fake\"".to_owned())
            }
            Guard::Bearer(bearer) => {
                let scope = format!("repository:{}:pull", request.target.repository().unwrap_or_default());
                let token = given.strip_prefix("Bearer ").and_then(|token| self.tokens.get_mut(token));
                let passes = match token {
                    Some((granted, uses)) if *granted == scope => match uses {
                        Some(0) => false,
                        Some(left) => {
                            *left -= 1;
                            true
                        }
                        None => true,
                    },
                    _ => false,
                };
                let realm = bearer.realm.clone().unwrap_or_else(|| format!("{base_url}/token"));
                (!passes).then(|| format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\""))
            }
        }
    }

    /// The token service's answer in JSON; `None` if it wants other credentials.
    pub fn issue(&mut self, request: &Request) -> Option<String> {
        let Guard::Bearer(bearer) = &self.guard else { return None };
        let given = request.header("authorization");
        if given.map(str::to_owned) != bearer.credentials.map(|(user, password)| basic(user, password)) {
            return None;
        }
        let token = format!("token-{}", self.tokens.len() + 1);
        self.tokens.insert(token.clone(), (request.parameter("scope").unwrap_or_default(), bearer.uses));
        let mut answer = serde_json::json!({ bearer.field: token });
        if let Some(seconds) = bearer.expires_in {
            answer["expires_in"] = seconds.into();
        }
        Some(answer.to_string())
    }
}

/// The header's value as RFC 7617 makes it.
pub fn basic(user: &str, password: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]);
            text.push(if at > group.len() { '=' } else { digit });
        }
    }
    text
}
