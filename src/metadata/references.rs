//! References: from a manifest to its blobs and from an index to its children, written many rows at a time.
//!
//! A manifest may list thousands of layers. One statement for each would keep the writer busy for many seconds: what the
//! database notes down to be able to undo a statement takes longer the more the same command has changed before.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::columns::length_column;
use crate::oci::Descriptor;

/// Rows in one statement.
pub(super) const ROWS_MAX: usize = 64;

/// Records references to blobs; an unknown blob gets a row without bytes.
pub(super) async fn insert_blobs(
    connection: &mut SqliteConnection,
    manifest_id: i64,
    blobs: &[Descriptor],
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    let mut unknown = QueryBuilder::<Sqlite>::new(
        "INSERT INTO blob (digest, size_bytes, stored_bytes, state, pushed, is_manifest, accessed_ms) ",
    );
    unknown.push_values(blobs, |mut row, blob| {
        row.push_bind(blob.digest)
            .push_bind(length_column(blob.size_bytes))
            .push("0, 0, FALSE, FALSE")
            .push_bind(now_ms);
    });
    unknown.push(" ON CONFLICT (digest) DO NOTHING").build().execute(&mut *connection).await?;

    let mut references = QueryBuilder::<Sqlite>::new("INSERT INTO manifest_blob (manifest_id, blob_id, size_bytes) ");
    references.push_values(blobs, |mut row, blob| {
        row.push_bind(manifest_id)
            .push("(SELECT id FROM blob WHERE digest = ")
            .push_bind_unseparated(blob.digest)
            .push_unseparated(")")
            .push_bind(length_column(blob.size_bytes));
    });
    references.push(" ON CONFLICT (manifest_id, blob_id) DO NOTHING").build().execute(connection).await.map(|_| ())
}

/// Records references to children, known or not.
pub(super) async fn insert_children(
    connection: &mut SqliteConnection,
    manifest_id: i64,
    children: &[Descriptor],
) -> Result<(), sqlx::Error> {
    let mut references = QueryBuilder::<Sqlite>::new("INSERT INTO manifest_child (manifest_id, digest, size_bytes) ");
    references.push_values(children, |mut row, child| {
        row.push_bind(manifest_id).push_bind(child.digest).push_bind(length_column(child.size_bytes));
    });
    references.push(" ON CONFLICT (manifest_id, digest) DO NOTHING").build().execute(connection).await.map(|_| ())
}
