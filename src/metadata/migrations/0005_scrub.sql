-- What checking the stored bytes found, and how far it has come.

-- Pushed blobs whose bytes were found damaged or missing: they cannot be fetched again, so somebody has to be told until they
-- are pushed again or nobody wants them any more.
CREATE TABLE loss (
    blob_id  INTEGER PRIMARY KEY REFERENCES blob (id) ON DELETE CASCADE,
    finding  TEXT    NOT NULL,                                -- missing, length, digest, unreadable
    found_ms INTEGER NOT NULL
) STRICT;

CREATE TRIGGER loss_healed AFTER UPDATE OF state ON blob WHEN NEW.state = 1 BEGIN
    DELETE FROM loss WHERE blob_id = NEW.id;
END;

-- One row: the pass over all blobs in the order of their digests that is under way, and the last one that ended.
CREATE TABLE scrub (
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    started_ms      INTEGER NOT NULL,                         -- of the pass under way, or else of the last one
    position        BLOB,                                     -- the last digest checked; NULL: no pass is under way
    checked_blobs   INTEGER NOT NULL,
    checked_bytes   INTEGER NOT NULL,
    damaged_blobs   INTEGER NOT NULL,
    ended_ms        INTEGER                                   -- of the last pass that ended
) STRICT;
