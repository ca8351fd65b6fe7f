-- What may have become garbage: looked at again after a while, and removed if nobody needs it then. Triggers fill these tables,
-- in the very transaction that changes a row, so that no change can forget to.
--
-- `due_ms` is NULL until a sweep has seen the entry and given it its time.

CREATE TABLE manifest_review (
    id     INTEGER PRIMARY KEY REFERENCES manifest (id) ON DELETE CASCADE,
    due_ms INTEGER
) STRICT;

CREATE TABLE blob_review (
    id     INTEGER PRIMARY KEY REFERENCES blob (id) ON DELETE CASCADE,
    due_ms INTEGER
) STRICT;

CREATE TABLE repository_review (
    id     INTEGER PRIMARY KEY REFERENCES repository (id) ON DELETE CASCADE,
    due_ms INTEGER
) STRICT;

CREATE INDEX manifest_review_due ON manifest_review (due_ms);
CREATE INDEX blob_review_due ON blob_review (due_ms);
CREATE INDEX repository_review_due ON repository_review (due_ms);

-- Whose layers are still on their way.
CREATE INDEX upload_repository ON upload (repository);

-- A manifest goes: what it lists and what is attached to it may have been pushed for its sake alone. What came from an upstream
-- is left to eviction.
CREATE TRIGGER manifest_review_parent BEFORE DELETE ON manifest BEGIN
    INSERT INTO manifest_review (id)
        SELECT m.id FROM manifest_child c JOIN manifest m ON m.repository_id = OLD.repository_id AND m.digest = c.digest
        WHERE c.manifest_id = OLD.id AND m.pushed AND m.id <> OLD.id
        ON CONFLICT (id) DO NOTHING;
    INSERT INTO manifest_review (id)
        SELECT m.id FROM manifest m
        WHERE m.repository_id = OLD.repository_id AND m.subject = OLD.digest AND m.pushed AND m.id <> OLD.id
        ON CONFLICT (id) DO NOTHING;
END;

CREATE TRIGGER blob_review_manifest AFTER DELETE ON manifest BEGIN
    INSERT INTO blob_review (id) VALUES (OLD.blob_id) ON CONFLICT (id) DO NOTHING;
    INSERT INTO repository_review (id) VALUES (OLD.repository_id) ON CONFLICT (id) DO NOTHING;
END;

CREATE TRIGGER blob_review_reference AFTER DELETE ON manifest_blob BEGIN
    INSERT INTO blob_review (id) VALUES (OLD.blob_id) ON CONFLICT (id) DO NOTHING;
END;

CREATE TRIGGER blob_review_unlinked AFTER DELETE ON link BEGIN
    INSERT INTO blob_review (id) VALUES (OLD.blob_id) ON CONFLICT (id) DO NOTHING;
    INSERT INTO repository_review (id) VALUES (OLD.repository_id) ON CONFLICT (id) DO NOTHING;
END;

-- What is pushed or mounted waits for a manifest, which may never come.
CREATE TRIGGER blob_review_pushed AFTER INSERT ON link WHEN NEW.pushed BEGIN
    INSERT INTO blob_review (id) VALUES (NEW.blob_id) ON CONFLICT (id) DO NOTHING;
END;

CREATE TRIGGER blob_review_adopted AFTER UPDATE OF pushed ON link WHEN NEW.pushed AND NOT OLD.pushed BEGIN
    INSERT INTO blob_review (id) VALUES (NEW.blob_id) ON CONFLICT (id) DO NOTHING;
END;

-- Bytes went: the row may be of no use any more.
CREATE TRIGGER blob_review_absent AFTER UPDATE OF state ON blob WHEN NEW.state = 0 AND OLD.state <> 0 BEGIN
    INSERT INTO blob_review (id) VALUES (NEW.id) ON CONFLICT (id) DO NOTHING;
END;

-- Manifests of upstreams that a pushed index lists count as pushed, as the blobs they name do.
WITH RECURSIVE listed (repository_id, digest) AS (
    SELECT m.repository_id, c.digest FROM manifest m JOIN manifest_child c ON c.manifest_id = m.id WHERE m.pushed
    UNION SELECT l.repository_id, c.digest
          FROM listed l JOIN manifest m ON m.repository_id = l.repository_id AND m.digest = l.digest
          JOIN manifest_child c ON c.manifest_id = m.id)
UPDATE manifest SET pushed = 1
    WHERE NOT pushed AND (repository_id, digest) IN (SELECT repository_id, digest FROM listed)
      AND EXISTS (SELECT 1 FROM blob b WHERE b.id = blob_id AND b.pushed);

-- What there is already: pushed blobs that no manifest of their repository names, blobs that no repository links, cached manifests
-- without bytes, empty repositories. `Metadata::enqueue_garbage` asks the same.
INSERT INTO blob_review (id)
    SELECT blob_id FROM (
        SELECT blob_id, repository_id FROM link WHERE pushed
        EXCEPT SELECT r.blob_id, m.repository_id FROM manifest_blob r JOIN manifest m ON m.id = r.manifest_id
        EXCEPT SELECT blob_id, repository_id FROM manifest)
    UNION SELECT b.id FROM blob b WHERE NOT EXISTS (SELECT 1 FROM link l WHERE l.blob_id = b.id)
    UNION SELECT b.id FROM blob b JOIN manifest m ON m.blob_id = b.id WHERE b.state = 0 AND NOT m.pushed;

INSERT INTO repository_review (id)
    SELECT r.id FROM repository r
    WHERE NOT r.private AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repository_id = r.id)
      AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.repository_id = r.id);
