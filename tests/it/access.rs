//! Who may do what: the defaults, the rules, passwords.

