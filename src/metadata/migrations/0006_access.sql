-- Who is let in: the keys that sign tokens, and the secrets given out, each as a digest only.

-- The newest one signs; the others verify what they have signed until that has expired.
CREATE TABLE signing_key (
    id         TEXT    PRIMARY KEY,                           -- in the head of what it signs
    pkcs8      BLOB    NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

-- What a client keeps instead of a password.
CREATE TABLE refresh_token (
    id         INTEGER PRIMARY KEY,
    digest     BLOB    NOT NULL UNIQUE,                       -- SHA-256 of the token
    user       TEXT    NOT NULL,
    mark       BLOB    NOT NULL,                              -- SHA-256 of the password's hash: another password ends it
    expires_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX refresh_token_user ON refresh_token (user, id);
CREATE INDEX refresh_token_expires ON refresh_token (expires_ms);

CREATE TABLE robot (
    name         TEXT    PRIMARY KEY,
    digest       BLOB    NOT NULL,                            -- SHA-256 of its token
    allowed      TEXT    NOT NULL,                            -- words separated by commas
    repositories TEXT    NOT NULL,                            -- patterns, a line each
    created_ms   INTEGER NOT NULL,
    expires_ms   INTEGER                                      -- NULL: never
) STRICT;
