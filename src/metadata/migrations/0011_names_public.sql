-- A repository that is forgotten is nobody's again, and the record of names must not say otherwise.
CREATE TRIGGER name_private_delete AFTER DELETE ON repository WHEN OLD.private BEGIN
    INSERT INTO name_change (line) VALUES (json_array('public', OLD.name));
END;
