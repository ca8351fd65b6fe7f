//! Who asks, as far as it matters to the answer.

use crate::upstream::Credentials;

/// The client of a request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Who it says it is.
    pub credentials: Option<Credentials>,
    /// It does not trust what is cached, and may have it looked after: an upstream is asked again, stored bytes are
    /// digested again.
    pub insists: bool,
    /// It wants what is stored here and nothing else: no upstream is asked on its account.
    pub only_stored: bool,
}
