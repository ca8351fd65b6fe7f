//! Who is let in: signing keys, refresh tokens, robots. Secrets are here as digests, but for the keys.

use futures::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretSlice};

use super::{Error, Metadata, cannot, limit_of};

/// A key that signs, or has signed, tokens.
#[derive(Clone, Debug)]
pub struct SigningKeyRow {
    /// Its name.
    pub id: String,
    /// The private key, PKCS #8.
    pub pkcs8: SecretSlice<u8>,
    /// When it was made.
    pub created_ms: i64,
}

/// A refresh token that was given out.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RefreshTokenRow {
    /// SHA-256 of the token.
    pub digest: Vec<u8>,
    /// Whose it is.
    pub user: String,
    /// SHA-256 of the hash of the password that was good when it was given out.
    pub mark: Vec<u8>,
    /// When it ends.
    pub expires_ms: i64,
}

/// A robot.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RobotRow {
    /// Its name.
    pub name: String,
    /// SHA-256 of its token.
    pub digest: Vec<u8>,
    /// What it may do: words separated by commas.
    pub allowed: String,
    /// Where: patterns, a line each.
    pub repositories: String,
    /// When it was made.
    pub created_ms: i64,
    /// When it ends; never, without.
    pub expires_ms: Option<i64>,
}

impl Metadata {
    /// Every signing key, the newest first.
    pub async fn list_signing_keys(&self) -> Result<Vec<SigningKeyRow>, Error> {
        let rows: Vec<(String, Vec<u8>, i64)> =
            sqlx::query_as("SELECT id, pkcs8, created_ms FROM signing_key ORDER BY created_ms DESC, id")
                .fetch_all(self.readers())
                .await
                .map_err(cannot("list", "the signing keys"))?;
        let row =
            |(id, pkcs8, created_ms): (String, Vec<u8>, i64)| SigningKeyRow { id, pkcs8: pkcs8.into(), created_ms };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Keeps a signing key, and forgets those made before `oldest_ms`.
    pub async fn put_signing_key(&self, key: &SigningKeyRow, oldest_ms: i64) -> Result<(), Error> {
        let (subject, key) = (key.id.clone(), key.clone());
        self.write("keep signing key", &subject, move |connection| {
            async move {
                sqlx::query("DELETE FROM signing_key WHERE created_ms < $1")
                    .bind(oldest_ms)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("INSERT INTO signing_key (id, pkcs8, created_ms) VALUES ($1, $2, $3)")
                    .bind(key.id)
                    .bind(key.pkcs8.expose_secret())
                    .bind(key.created_ms)
                    .execute(connection)
                    .await
                    .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// The refresh token with this digest, if it was given out and not taken back.
    pub async fn find_refresh_token(&self, digest: &[u8]) -> Result<Option<RefreshTokenRow>, Error> {
        sqlx::query_as("SELECT digest, user, mark, expires_ms FROM refresh_token WHERE digest = $1")
            .bind(digest)
            .fetch_optional(self.readers())
            .await
            .map_err(cannot("look up", "a refresh token"))
    }

    /// Records a refresh token; of the same user the newest `per_user_max` stay, and no expired one of anybody.
    pub async fn put_refresh_token(
        &self,
        token: RefreshTokenRow,
        per_user_max: usize,
        now_ms: i64,
    ) -> Result<(), Error> {
        let subject = token.user.clone();
        self.write("record a refresh token of", &subject, move |connection| {
            async move {
                sqlx::query("DELETE FROM refresh_token WHERE expires_ms <= $1")
                    .bind(now_ms)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("INSERT INTO refresh_token (digest, user, mark, expires_ms) VALUES ($1, $2, $3, $4)")
                    .bind(token.digest)
                    .bind(&token.user)
                    .bind(token.mark)
                    .bind(token.expires_ms)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query(
                    "DELETE FROM refresh_token WHERE user = $1 AND id NOT IN
                     (SELECT id FROM refresh_token WHERE user = $1 ORDER BY id DESC LIMIT $2)",
                )
                .bind(&token.user)
                .bind(limit_of(per_user_max))
                .execute(connection)
                .await
                .map(|_| ())
            }
            .boxed()
        })
        .await
    }

    /// Takes back every refresh token of a user. Returns how many there were.
    pub async fn delete_refresh_tokens(&self, user: &str) -> Result<u64, Error> {
        let user = user.to_owned();
        self.write("take back the refresh tokens of", &user.clone(), move |connection| {
            async move {
                let done =
                    sqlx::query("DELETE FROM refresh_token WHERE user = $1").bind(user).execute(connection).await?;
                Ok(done.rows_affected())
            }
            .boxed()
        })
        .await
    }

    /// Every robot, by name.
    pub async fn list_robots(&self) -> Result<Vec<RobotRow>, Error> {
        sqlx::query_as("SELECT name, digest, allowed, repositories, created_ms, expires_ms FROM robot ORDER BY name")
            .fetch_all(self.readers())
            .await
            .map_err(cannot("list", "the robots"))
    }

    /// Records a robot. False, and nothing changed, if there is one of that name.
    pub async fn insert_robot(&self, robot: RobotRow) -> Result<bool, Error> {
        let subject = robot.name.clone();
        self.write("record robot", &subject, move |connection| {
            async move {
                let done = sqlx::query(
                    "INSERT INTO robot (name, digest, allowed, repositories, created_ms, expires_ms)
                     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
                )
                .bind(robot.name)
                .bind(robot.digest)
                .bind(robot.allowed)
                .bind(robot.repositories)
                .bind(robot.created_ms)
                .bind(robot.expires_ms)
                .execute(connection)
                .await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Forgets a robot. False if there was none.
    pub async fn delete_robot(&self, name: &str) -> Result<bool, Error> {
        let name = name.to_owned();
        self.write("forget robot", &name.clone(), move |connection| {
            async move {
                let done = sqlx::query("DELETE FROM robot WHERE name = $1").bind(name).execute(connection).await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }
}
