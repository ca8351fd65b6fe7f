//! What was issued to this server, and what it takes to have more issued: small files with keys in them, for our eyes only.

use std::path::{Path, PathBuf};

use super::{Error, Store, fs, keys};

/// One of these files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuance {
    /// Who we are to those who issue.
    Account,
    /// What was asked for and has not come yet.
    Order,
    /// The certificate with its chain and its key, in PEM.
    Certificate,
}

impl Issuance {
    /// Its file in the store at `root`.
    pub fn path(self, root: &Path) -> PathBuf {
        let name = match self {
            Self::Account => "account.json",
            Self::Order => "order.json",
            Self::Certificate => "certificate.pem",
        };
        keys::issuance(root).join(name)
    }
}

impl Store {
    /// What is kept; `None` if nothing is.
    pub fn read_issuance(&self, which: Issuance) -> Result<Option<Vec<u8>>, Error> {
        fs::read(&which.path(&self.root))
    }

    /// Replaces what is kept, durably, so that a crash leaves the old or the new. Nobody but our user may read it.
    pub fn keep_issuance(&self, which: Issuance, bytes: &[u8]) -> Result<(), Error> {
        self.assert_there()?;
        let folder = keys::issuance(&self.root);
        if !folder.exists() {
            fs::create_folders(&self.root, &[folder])?;
        }
        fs::write_privately(&which.path(&self.root), bytes)
    }

    /// Keeps it no longer; that it is gone already is fine.
    pub fn forget_issuance(&self, which: Issuance) -> Result<(), Error> {
        fs::remove(&which.path(&self.root))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_issued_is_for_our_user_alone_whatever_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), true).unwrap();
        assert_eq!(store.read_issuance(Issuance::Account).unwrap(), None);
        let path = Issuance::Account.path(store.root());
        store.keep_issuance(Issuance::Account, b"one").unwrap();
        // What a crash left half-written, and an operator copied with other rights.
        let half = path.with_extension("new");
        std::fs::write(&half, "half of something longer").unwrap();
        std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o644)).unwrap();
        store.keep_issuance(Issuance::Account, b"two").unwrap();
        assert_eq!(store.read_issuance(Issuance::Account).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!half.exists());
        store.forget_issuance(Issuance::Account).unwrap();
        store.forget_issuance(Issuance::Account).unwrap();
        assert_eq!(store.read_issuance(Issuance::Account).unwrap(), None);
    }
}
