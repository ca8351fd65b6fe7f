-- What each repository holds, and the quota that it is under.

-- The name of the first quota of the configuration that the repository falls under.
ALTER TABLE repository ADD COLUMN quota TEXT;

CREATE INDEX repository_quota ON repository (quota) WHERE quota IS NOT NULL;

-- The quotas that these names were made from: others mean that they have to be made anew.
CREATE TABLE quota_rule (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    rules TEXT    NOT NULL
) STRICT;

-- What the present blobs that a repository links take on disk: a blob that several repositories share counts in each. Kept by
-- triggers like the sums of the first schema, and made anew from the rows at any time.
CREATE TABLE repository_sum (
    repository_id INTEGER PRIMARY KEY REFERENCES repository (id) ON DELETE CASCADE,
    stored_bytes  INTEGER NOT NULL
) STRICT;

INSERT INTO repository_sum (repository_id, stored_bytes)
SELECT r.id, COALESCE((SELECT SUM(b.stored_bytes) FROM link l JOIN blob b ON b.id = l.blob_id
                       WHERE l.repository_id = r.id AND b.state = 1), 0)
FROM repository r;

CREATE TRIGGER repository_sum_begin AFTER INSERT ON repository BEGIN
    INSERT INTO repository_sum (repository_id, stored_bytes) VALUES (NEW.id, 0);
END;

CREATE TRIGGER repository_sum_link AFTER INSERT ON link BEGIN
    UPDATE repository_sum
    SET stored_bytes = stored_bytes + (SELECT CASE WHEN b.state = 1 THEN b.stored_bytes ELSE 0 END
                                       FROM blob b WHERE b.id = NEW.blob_id)
    WHERE repository_id = NEW.repository_id;
END;

CREATE TRIGGER repository_sum_unlink AFTER DELETE ON link BEGIN
    UPDATE repository_sum
    SET stored_bytes = stored_bytes - COALESCE((SELECT CASE WHEN b.state = 1 THEN b.stored_bytes ELSE 0 END
                                                FROM blob b WHERE b.id = OLD.blob_id), 0)
    WHERE repository_id = OLD.repository_id;
END;

CREATE TRIGGER repository_sum_blob AFTER UPDATE OF state, stored_bytes ON blob
WHEN (OLD.state = 1) * OLD.stored_bytes <> (NEW.state = 1) * NEW.stored_bytes BEGIN
    UPDATE repository_sum
    SET stored_bytes = stored_bytes - (OLD.state = 1) * OLD.stored_bytes + (NEW.state = 1) * NEW.stored_bytes
    WHERE repository_id IN (SELECT l.repository_id FROM link l WHERE l.blob_id = NEW.id);
END;
