-- What receivers are still to be told, in the order in which it happened.

CREATE TABLE webhook (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    -- Events that may wait; of more, the oldest go.
    queue_max  INTEGER NOT NULL,
    -- Rows of webhook_event, kept by triggers.
    waiting    INTEGER NOT NULL DEFAULT 0,
    -- Events that went because the queue was full, since the webhook was first configured.
    overflowed INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE webhook_event (
    -- Never given twice: a receiver's answer about an event must not be taken for one about a later one.
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id INTEGER NOT NULL REFERENCES webhook (id) ON DELETE CASCADE,
    created_ms INTEGER NOT NULL,
    document   TEXT    NOT NULL
) STRICT;

CREATE INDEX webhook_event_order ON webhook_event (webhook_id, id);

-- The bound holds in the transaction of whatever happened, so that nothing can forget it.
CREATE TRIGGER webhook_event_came AFTER INSERT ON webhook_event BEGIN
    UPDATE webhook SET waiting = waiting + 1, overflowed = overflowed + (waiting + 1 > queue_max)
    WHERE id = NEW.webhook_id;
    DELETE FROM webhook_event
    WHERE id = (SELECT MIN(id) FROM webhook_event WHERE webhook_id = NEW.webhook_id)
      AND (SELECT waiting > queue_max FROM webhook WHERE id = NEW.webhook_id);
END;

CREATE TRIGGER webhook_event_went AFTER DELETE ON webhook_event BEGIN
    UPDATE webhook SET waiting = waiting - 1 WHERE id = OLD.webhook_id;
END;
