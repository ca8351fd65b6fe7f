//! What is on its way in, against the sessions that own it.

use std::collections::HashSet;

use super::{Check, Error, Finding};

impl Check<'_> {
    /// Everything in `staging/`. Returns what the fills that can be continued take on the disk, in bytes.
    pub(super) async fn staging(&mut self) -> Result<u64, Error> {
        let staged = self.blobs.store().list_staged()?;
        let sessions: HashSet<_> =
            self.metadata.list_uploads_before(i64::MAX).await?.into_iter().map(|row| row.id).collect();
        let ownerless = staged.uploads.iter().filter(|(id, _)| !sessions.contains(id));
        self.findings.extend(ownerless.map(|(id, _)| Finding::Upload { id: *id }));
        self.findings.extend(staged.puts.into_iter().chain(staged.notes).map(|path| Finding::Put { path }));
        self.findings.extend(staged.fronts.into_iter().map(|path| Finding::Front { path }));
        self.findings.extend(staged.foreign.into_iter().map(|path| Finding::Foreign { path }));
        Ok(staged.fills.iter().map(|(_, size)| size.stored_bytes).sum())
    }
}
