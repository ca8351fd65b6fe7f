//! What a request says about who sent it, not yet believed.

use std::fmt;

use secrecy::SecretString;

/// What a request says about who sent it.
pub enum Presented<'a> {
    /// Nothing.
    Nothing,
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password, or a secret in its place.
        password: SecretString,
    },
    /// A token, where the request has it: it comes with every request, and a copy would only be one more to wipe.
    Token(&'a str),
    /// Something that is neither, or more than one thing.
    Unreadable,
}

/// Of what kind it is, and no secret.
impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
            Self::Unreadable => "Unreadable",
        })
    }
}
