//! Somebody who asks for something, and what holds for it.

use std::sync::Arc;

use super::policy::{Decision, Permission};
use super::tokens::Ticket;
use super::{Identity, Standing};
use crate::near::Held;

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    identity: Identity,
    /// The token it showed, if it showed one: it may do no more than that was issued for.
    ticket: Option<Arc<Ticket>>,
    standing: Held<Standing>,
}

/// Whether something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Yes,
    /// It would be, with a token for that.
    OutOfScope,
    /// It is not.
    No,
}

impl Caller {
    pub(super) const fn new(identity: Identity, ticket: Option<Arc<Ticket>>, standing: Held<Standing>) -> Self {
        Self { identity, ticket, standing }
    }

    /// Who it is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it is called, if it has signed in.
    pub fn name(&self) -> Option<Arc<str>> {
        match &self.ticket {
            _ if !self.identity.is_signed_in() => None,
            // Ours says it word for word.
            Some(ticket) if !ticket.is_of_another => Some(Arc::clone(&ticket.subject)),
            _ => Some(self.identity.to_string().into()),
        }
    }

    /// What is configured.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Did it show something: a password or a token, be it one for nobody in particular?
    pub const fn has_come_in(&self) -> bool {
        self.ticket.is_some() || (self.identity.is_signed_in() && !self.is_by_certificate())
    }

    /// Has it nothing but the certificate of its connection, and perhaps something better to show?
    pub const fn is_by_certificate(&self) -> bool {
        self.ticket.is_none() && matches!(self.identity, Identity::Certificate { .. })
    }

    /// What decides for it in the repository that is called `names`, whatever its token is for.
    pub fn decide<N: AsRef<[String]>>(&self, names: impl FnOnce() -> N) -> Decision {
        self.standing.policy.decide(&self.identity, names)
    }

    /// May it do this in the repository that is called `names`?
    pub fn may<N: AsRef<[String]>>(&self, permission: Permission, names: impl Fn() -> N) -> Verdict {
        if !self.decide(&names).allowed.has(permission) {
            return Verdict::No;
        }
        let Some(ticket) = &self.ticket else { return Verdict::Yes };
        if ticket.permissions(names().as_ref()).has(permission) { Verdict::Yes } else { Verdict::OutOfScope }
    }

    /// May it see the list of repositories, of which it is shown those it may pull?
    pub fn may_list(&self) -> Verdict {
        match &self.ticket {
            _ if !self.standing.policy.may_list(&self.identity) => Verdict::No,
            Some(ticket) if !ticket.lists => Verdict::OutOfScope,
            _ => Verdict::Yes,
        }
    }

    /// May it look inside and steer? Not with a token, which is issued for repositories.
    pub fn is_admin(&self) -> bool {
        self.ticket.is_none() && self.standing.policy.is_admin(&self.identity)
    }
}
