-- Pins: what operators keep from being evicted, and the blobs that this comes to.

-- What is pinned, by tag or by digest. Repositories are named by text: what is pinned need not be here yet.
CREATE TABLE pin (
    repository TEXT    NOT NULL,
    reference  TEXT    NOT NULL,                              -- a tag, or a digest as text
    configured INTEGER NOT NULL CHECK (configured IN (0, 1)), -- by a pattern of the configuration, not by a command
    PRIMARY KEY (repository, reference, configured)
) STRICT, WITHOUT ROWID;

-- The patterns that the configured pins were made from: others mean that they have to be made anew.
CREATE TABLE pin_pattern (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    patterns TEXT    NOT NULL
) STRICT;

-- It belongs to what is pinned. Follows from pins, tags and references, and is brought up to date in the transaction that changes
-- one of these; it can be made anew from them at any time.
ALTER TABLE blob ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));

CREATE INDEX blob_pinned ON blob (id) WHERE pinned = 1;

DROP INDEX blob_eviction;

CREATE INDEX blob_eviction ON blob (is_manifest, accessed_ms, digest) WHERE state = 1 AND NOT pushed AND pinned = 0;

-- What is pinned no more may have become garbage.
CREATE TRIGGER manifest_review_unpinned AFTER UPDATE OF pinned ON blob WHEN OLD.pinned AND NOT NEW.pinned BEGIN
    INSERT INTO manifest_review (id) SELECT m.id FROM manifest m WHERE m.blob_id = NEW.id AND m.pushed
        ON CONFLICT (id) DO NOTHING;
END;
