//! Who asks, as far as it matters to the answer.

/// The client of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// It does not trust what is cached, and may have it looked after: an upstream is asked again, stored bytes are
    /// digested again.
    pub insists: bool,
}
