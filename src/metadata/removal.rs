//! What goes along with the removal of a tag or a manifest, in one transaction with it.

use std::fmt;

use futures::FutureExt as _;
use sqlx::SqliteConnection;

use super::{Error, Metadata, Notice, manifests, notices, tags};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

type Keeps = dyn Fn(&Tag) -> bool + Send + Sync;

/// What a removal spares, and who is told of it.
#[derive(Default)]
pub struct Removal {
    keeps: Option<Box<Keeps>>,
    notices: Vec<Notice>,
}

impl Removal {
    /// One that spares the pushed tags that `keeps` says yes to, and the manifests that they name.
    pub fn sparing(keeps: impl Fn(&Tag) -> bool + Send + Sync + 'static) -> Self {
        Self { keeps: Some(Box::new(keeps)), notices: Vec::new() }
    }

    /// The same, of which this is told if anything is removed.
    #[must_use]
    pub fn telling(self, notices: Vec<Notice>) -> Self {
        Self { notices, ..self }
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removal").field("spares_tags", &self.keeps.is_some()).field("notices", &self.notices).finish()
    }
}

impl Metadata {
    /// Removes a tag, or a manifest with every tag that names it. False if there was none. If it would take a pushed tag that
    /// is to be spared, nothing changes, and the error is [`Error::TagKept`]: nobody can push such a tag between the look and
    /// the removal.
    pub async fn remove(&self, repo: &RepositoryName, reference: &Reference, removal: Removal) -> Result<bool, Error> {
        let (repo, wanted) = (repo.clone(), reference.clone());
        let queued = self.queued(&removal.notices);
        let is_told = !queued.is_empty();
        let removed = self.write("remove", reference, move |connection| {
            async move {
                if let Some(tag) = removal.spared(connection, &repo, &wanted).await? {
                    return Ok(Err(tag));
                }
                let is_gone = match &wanted {
                    Reference::Tag(tag) => tags::delete(connection, &repo, tag).await?,
                    Reference::Digest(digest) => manifests::delete(connection, &repo, digest).await?,
                };
                if is_gone {
                    notices::queue(connection, &queued).await?;
                }
                Ok(Ok(is_gone))
            }
            .boxed()
        });
        let removed = removed.await?;
        if is_told {
            self.wake();
        }
        removed.map_err(|tag| Error::TagKept { tag })
    }
}

impl Removal {
    /// The first tag that the removal would take and is to spare.
    async fn spared(
        &self,
        connection: &mut SqliteConnection,
        repo: &RepositoryName,
        wanted: &Reference,
    ) -> Result<Option<Tag>, sqlx::Error> {
        let Some(keeps) = &self.keeps else { return Ok(None) };
        let tags = match wanted {
            Reference::Digest(digest) => pushed_tags_of(connection, repo, digest).await?,
            Reference::Tag(tag) if !keeps(tag) => return Ok(None),
            Reference::Tag(tag) => {
                let is_pushed = tags::is_pushed(connection, repo, tag).await?;
                is_pushed.then(|| tag.clone()).into_iter().collect()
            }
        };
        Ok(tags.into_iter().find(|tag| keeps(tag)))
    }
}

async fn pushed_tags_of(
    connection: &mut SqliteConnection,
    repo: &RepositoryName,
    digest: &Digest,
) -> Result<Vec<Tag>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT t.name FROM repository r JOIN tag t ON t.repository_id = r.id JOIN manifest m ON m.id = t.manifest_id
         WHERE r.name = $1 AND m.digest = $2 AND t.pushed ORDER BY t.name",
    )
    .bind(repo)
    .bind(digest)
    .fetch_all(connection)
    .await
}
