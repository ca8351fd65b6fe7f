-- What upstreams last listed: the tags of a repository, or what is attached to a manifest. Repositories are named by text: a
-- list alone does not make a repository.

CREATE TABLE upstream_list (
    id         INTEGER PRIMARY KEY,
    repository TEXT    NOT NULL,
    subject    BLOB    NOT NULL,                              -- the manifest's digest; empty: the repository's tags
    body       BLOB    NOT NULL,                              -- JSON, written and read by the cache
    checked_ms INTEGER NOT NULL,                              -- the upstream said so
    UNIQUE (repository, subject)
) STRICT;

-- The order in which lists go when there are too many.
CREATE INDEX upstream_list_checked ON upstream_list (checked_ms);

-- The bytes of all bodies and 256 for each row, kept by triggers like the sums of the first schema.
CREATE TABLE upstream_list_sum (body_bytes INTEGER NOT NULL) STRICT;

INSERT INTO upstream_list_sum (body_bytes) VALUES (0);

CREATE TRIGGER upstream_list_sum_insert AFTER INSERT ON upstream_list BEGIN
    UPDATE upstream_list_sum SET body_bytes = body_bytes + 256 + length(NEW.body);
END;

CREATE TRIGGER upstream_list_sum_update AFTER UPDATE OF body ON upstream_list BEGIN
    UPDATE upstream_list_sum SET body_bytes = body_bytes + length(NEW.body) - length(OLD.body);
END;

CREATE TRIGGER upstream_list_sum_delete AFTER DELETE ON upstream_list BEGIN
    UPDATE upstream_list_sum SET body_bytes = body_bytes - 256 - length(OLD.body);
END;
