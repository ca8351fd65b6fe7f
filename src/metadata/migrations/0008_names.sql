-- The names of what was pushed are recorded beside the index too, so that losing the index loses none of them. Whatever changes
-- them leaves its line here, by trigger, in the transaction that makes the change; the writer moves the lines to the record and
-- syncs that before the transaction commits.

CREATE TABLE name_change (
    id   INTEGER PRIMARY KEY,
    line TEXT    NOT NULL                                     -- a JSON array: what happened, repository, …
) STRICT;

-- One row: the number of the last batch in the record, and whether the whole record has to be written anew.
CREATE TABLE name_record (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    batch  INTEGER NOT NULL,
    is_due INTEGER NOT NULL CHECK (is_due IN (0, 1))
) STRICT;

INSERT INTO name_record (id, batch, is_due) VALUES (1, 0, 1);

CREATE TRIGGER name_private_insert AFTER INSERT ON repository WHEN NEW.private BEGIN
    INSERT INTO name_change (line) VALUES (json_array('private', NEW.name));
END;

CREATE TRIGGER name_private_update AFTER UPDATE OF private ON repository WHEN NEW.private AND NOT OLD.private BEGIN
    INSERT INTO name_change (line) VALUES (json_array('private', NEW.name));
END;

CREATE TRIGGER name_manifest_insert AFTER INSERT ON manifest WHEN NEW.pushed BEGIN
    INSERT INTO name_change (line) SELECT json_array('manifest', name, hex(NEW.digest), NEW.media_type)
    FROM repository WHERE id = NEW.repository_id;
END;

CREATE TRIGGER name_manifest_update AFTER UPDATE OF pushed ON manifest WHEN NEW.pushed AND NOT OLD.pushed BEGIN
    INSERT INTO name_change (line) SELECT json_array('manifest', name, hex(NEW.digest), NEW.media_type)
    FROM repository WHERE id = NEW.repository_id;
END;

CREATE TRIGGER name_manifest_delete AFTER DELETE ON manifest WHEN OLD.pushed BEGIN
    INSERT INTO name_change (line) SELECT json_array('forget', name, hex(OLD.digest))
    FROM repository WHERE id = OLD.repository_id;
END;

CREATE TRIGGER name_tag_insert AFTER INSERT ON tag WHEN NEW.pushed BEGIN
    INSERT INTO name_change (line) SELECT json_array('tag', r.name, hex(m.digest), NEW.name)
    FROM repository r JOIN manifest m ON m.id = NEW.manifest_id WHERE r.id = NEW.repository_id;
END;

CREATE TRIGGER name_tag_update AFTER UPDATE OF manifest_id, pushed ON tag
WHEN NEW.pushed AND (NOT OLD.pushed OR NEW.manifest_id <> OLD.manifest_id) BEGIN
    INSERT INTO name_change (line) SELECT json_array('tag', r.name, hex(m.digest), NEW.name)
    FROM repository r JOIN manifest m ON m.id = NEW.manifest_id WHERE r.id = NEW.repository_id;
END;

CREATE TRIGGER name_tag_delete AFTER DELETE ON tag WHEN OLD.pushed BEGIN
    INSERT INTO name_change (line) SELECT json_array('untag', name, OLD.name) FROM repository WHERE id = OLD.repository_id;
END;
