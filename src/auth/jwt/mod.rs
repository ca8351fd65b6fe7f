//! Tokens that others sign (RFC 7519): whose they say they are, whether a key of those has signed them, when and for whom
//! they count. Pure.

mod keys;

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

pub use keys::{KEYS_MAX, KeySet, KeysInvalid};

/// What two clocks may differ by.
pub const LEEWAY_MS: i64 = 30_000;
/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The longest subject that becomes an identity: it is in every line of the log and in every token.
const SUBJECT_BYTES_MAX: usize = 1024;

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// What is wrong with a token. Of what it says, nothing is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no token, too long for one, or asks for what nobody here understands.
    #[error("it cannot be read")]
    Unreadable,
    /// It is signed by a shared secret, or not at all.
    #[error("it must be signed by RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA")]
    Algorithm,
    /// Its key is none of those that count.
    #[error("no key of its issuer has signed it")]
    Key,
    /// The key that it names did not sign it.
    #[error("its signature is wrong")]
    Signature,
    /// Somebody else has issued it.
    #[error("its issuer (`iss`) is another")]
    Issuer,
    /// It is meant for somebody else.
    #[error("its audience (`aud`) must be {wanted}")]
    Audience {
        /// For whom it must be.
        wanted: String,
    },
    /// Only a certificate that came with it could have signed it.
    #[error("the certificates that it brings along (`x5c`) are not looked at: the one that signs must be configured")]
    Chain,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("its time has not come")]
    Early,
    /// It says something else than it must, or nothing.
    #[error("its claim `{claim}` is not what it must be")]
    Claim {
        /// The claim's name.
        claim: String,
    },
}

/// The key that a token's header asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    id: Option<String>,
    algorithm: Algorithm,
    has_chain: bool,
}

impl Wanted {
    /// Does the token bring certificates along (`x5c`)?
    pub const fn brings_chain(&self) -> bool {
        self.has_chain
    }
}

/// Who a token says has issued it, which proves nothing; `None` if it is no such token.
pub fn issuer_of(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims: Claims = insecure_decode_claims(token).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// The key that `token` must be held against. What its header must have understood (`crit`) nobody here does.
pub fn wanted(token: &str) -> Result<Wanted, Fault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Fault::Unreadable);
    }
    // `none` is no algorithm to the one that reads this.
    let header = decode_header(token).map_err(|_| Fault::Algorithm)?;
    if header.crit.is_some() {
        return Err(Fault::Unreadable);
    }
    if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
        return Err(Fault::Algorithm);
    }
    Ok(Wanted { id: header.kid, algorithm: header.alg, has_chain: header.x5c.is_some() })
}

/// What `token` says, if one of `keys` has signed it. Time, issuer and audience are not looked at.
pub fn verified(token: &str, wanted: &Wanted, keys: &KeySet) -> Result<Claims, Fault> {
    let mut validation = Validation::new(wanted.algorithm);
    validation.set_required_spec_claims::<&str>(&[]);
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let mut fitting = keys.fitting(wanted).peekable();
    if fitting.peek().is_none() {
        return Err(Fault::Key);
    }
    let signed = fitting.find_map(|key| decode::<Claims>(token, key, &validation).ok());
    signed.map(|token| token.claims).ok_or(if wanted.id.is_some() { Fault::Signature } else { Fault::Key })
}

/// Is `claims` by `issuer`, for `audience`, and is its time now? Returns until when, Unix milliseconds.
pub fn check(claims: &Claims, issuer: &str, audience: &str, now_ms: i64) -> Result<i64, Fault> {
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(Fault::Issuer);
    }
    let is_for_it = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    };
    if !is_for_it {
        return Err(Fault::Audience { wanted: audience.to_owned() });
    }
    let expires_ms = time(claims, "exp")?.ok_or(Fault::Claim { claim: "exp".to_owned() })?;
    if is_over(expires_ms, now_ms) {
        return Err(Fault::Expired);
    }
    for claim in ["nbf", "iat"] {
        if time(claims, claim)?.is_some_and(|begins_ms| begins_ms > now_ms.saturating_add(LEEWAY_MS)) {
            return Err(Fault::Early);
        }
    }
    Ok(expires_ms)
}

/// Is the time of a token over that ends then?
pub const fn is_over(expires_ms: i64, now_ms: i64) -> bool {
    expires_ms.saturating_add(LEEWAY_MS) <= now_ms
}

/// The claim that says whose the token is, if it says so, and in a way that can be written into a log.
pub fn subject<'a>(claims: &'a Claims, claim: &str) -> Result<Option<&'a str>, Fault> {
    let is_one = |text: &&str| text.len() <= SUBJECT_BYTES_MAX && !text.chars().any(char::is_control);
    match claims.get(claim) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str().filter(is_one) {
            Some("") => Ok(None),
            Some(subject) => Ok(Some(subject)),
            None => Err(Fault::Claim { claim: claim.to_owned() }),
        },
    }
}

/// A date in Unix milliseconds. They are numbers of seconds, not always whole ones (RFC 7519, section 2).
fn time(claims: &Claims, claim: &str) -> Result<Option<i64>, Fault> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let whole_ms = value.as_i64().and_then(|seconds| seconds.checked_mul(1000));
    #[expect(clippy::cast_possible_truncation, reason = "what is beyond i64 becomes its bound")]
    let ms = whole_ms.or_else(|| value.as_f64().map(|seconds| (seconds * 1000.0) as i64));
    ms.map(Some).ok_or(Fault::Claim { claim: claim.to_owned() })
}

#[cfg(test)]
mod tests;
