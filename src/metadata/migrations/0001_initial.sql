-- The first schema. Files in this folder are append-only: a released one is never edited, a change is a new file.
--
-- Digests are one byte for the algorithm (1 sha256, 2 sha512) and the raw bytes, so that their bytewise order is the order of
-- the digests. Times are Unix milliseconds. Names compare bytewise (SQLite's BINARY collation; "C" on PostgreSQL).
-- Nothing here counts who holds a blob: that is always a query over links and references.

CREATE TABLE repository (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    private    INTEGER NOT NULL CHECK (private IN (0, 1)),   -- it had an accepted push
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE blob (
    id           INTEGER PRIMARY KEY,
    digest       BLOB    NOT NULL UNIQUE,
    size_bytes   INTEGER NOT NULL CHECK (size_bytes >= 0),   -- while absent and never stored: what a manifest stated
    stored_bytes INTEGER NOT NULL CHECK (stored_bytes >= 0), -- allocated on disk; 0 while absent
    state        INTEGER NOT NULL CHECK (state IN (0, 1, 2)),-- absent, present, deleting
    pushed       INTEGER NOT NULL CHECK (pushed IN (0, 1)),  -- never evicted
    is_manifest  INTEGER NOT NULL CHECK (is_manifest IN (0, 1)),
    accessed_ms  INTEGER NOT NULL
) STRICT;

-- The order of eviction: layers before manifests, the longest unused first.
CREATE INDEX blob_eviction ON blob (is_manifest, accessed_ms, digest) WHERE state = 1 AND NOT pushed;
CREATE INDEX blob_deleting ON blob (digest) WHERE state = 2;

-- Who may read a blob: only a repository that links it.
CREATE TABLE link (
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    blob_id       INTEGER NOT NULL REFERENCES blob (id),
    pushed        INTEGER NOT NULL CHECK (pushed IN (0, 1)),
    PRIMARY KEY (repository_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX link_blob ON link (blob_id, repository_id);

-- What was read from a manifest whose bytes are the blob of the same digest.
CREATE TABLE manifest (
    id            INTEGER PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    blob_id       INTEGER NOT NULL REFERENCES blob (id),
    digest        BLOB    NOT NULL,
    media_type    TEXT    NOT NULL,
    subject       BLOB,
    artifact_type TEXT,
    annotations   TEXT    NOT NULL,                          -- a JSON object of strings
    pushed        INTEGER NOT NULL CHECK (pushed IN (0, 1)),
    created_ms    INTEGER NOT NULL,
    UNIQUE (repository_id, digest)
) STRICT;

CREATE INDEX manifest_subject ON manifest (repository_id, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifest_blob_id ON manifest (blob_id);

-- References of a manifest to config and layers, with the size its descriptor states.
CREATE TABLE manifest_blob (
    manifest_id INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    blob_id     INTEGER NOT NULL REFERENCES blob (id),
    size_bytes  INTEGER NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (manifest_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_blob_blob ON manifest_blob (blob_id, manifest_id);

-- References of an index to its children, which need not be here: by digest, and in the index's own repository.
CREATE TABLE manifest_child (
    manifest_id INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    digest      BLOB    NOT NULL,
    size_bytes  INTEGER NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (manifest_id, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_child_digest ON manifest_child (digest, manifest_id);

CREATE TABLE tag (
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    name          TEXT    NOT NULL,
    manifest_id   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    pushed        INTEGER NOT NULL CHECK (pushed IN (0, 1)),
    checked_ms    INTEGER NOT NULL,                          -- an upstream last confirmed it
    updated_ms    INTEGER NOT NULL,                          -- it was last written
    PRIMARY KEY (repository_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX tag_manifest ON tag (manifest_id);

-- Upload sessions name their repository by text: a session alone does not make a repository.
CREATE TABLE upload (
    id         TEXT    PRIMARY KEY,
    repository TEXT    NOT NULL,
    algorithm  INTEGER CHECK (algorithm IN (1, 2)),          -- as in digests; NULL: not announced
    started_ms INTEGER NOT NULL,
    touched_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX upload_touched ON upload (touched_ms);

-- Running sums over `blob` and `manifest`, because summing a million rows on every question costs a full scan. They are kept by
-- triggers, hence in the very transaction that changes the rows, and can be rebuilt from the rows at any time.
CREATE TABLE blob_sum (
    state        INTEGER NOT NULL,
    pushed       INTEGER NOT NULL,
    n_blobs      INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    PRIMARY KEY (state, pushed)
) STRICT, WITHOUT ROWID;

INSERT INTO blob_sum (state, pushed, n_blobs, stored_bytes)
VALUES (0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (2, 0, 0, 0), (2, 1, 0, 0);

CREATE TRIGGER blob_sum_insert AFTER INSERT ON blob BEGIN
    UPDATE blob_sum SET n_blobs = n_blobs + 1, stored_bytes = stored_bytes + NEW.stored_bytes
        WHERE state = NEW.state AND pushed = NEW.pushed;
END;

CREATE TRIGGER blob_sum_update AFTER UPDATE OF state, pushed, stored_bytes ON blob BEGIN
    UPDATE blob_sum SET n_blobs = n_blobs - 1, stored_bytes = stored_bytes - OLD.stored_bytes
        WHERE state = OLD.state AND pushed = OLD.pushed;
    UPDATE blob_sum SET n_blobs = n_blobs + 1, stored_bytes = stored_bytes + NEW.stored_bytes
        WHERE state = NEW.state AND pushed = NEW.pushed;
END;

CREATE TRIGGER blob_sum_delete AFTER DELETE ON blob BEGIN
    UPDATE blob_sum SET n_blobs = n_blobs - 1, stored_bytes = stored_bytes - OLD.stored_bytes
        WHERE state = OLD.state AND pushed = OLD.pushed;
END;

CREATE TABLE manifest_sum (n_manifests INTEGER NOT NULL) STRICT;

INSERT INTO manifest_sum (n_manifests) VALUES (0);

CREATE TRIGGER manifest_sum_insert AFTER INSERT ON manifest BEGIN
    UPDATE manifest_sum SET n_manifests = n_manifests + 1;
END;

CREATE TRIGGER manifest_sum_delete AFTER DELETE ON manifest BEGIN
    UPDATE manifest_sum SET n_manifests = n_manifests - 1;
END;
