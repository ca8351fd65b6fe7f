//! The keys that sign tokens: made here, kept in the index, replaced every month. The one before goes on verifying.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;
use tracing::{error, info};

use super::Error;
use super::secret::new_name;
use crate::clock::Clock;
use crate::metadata::{Metadata, SigningKeyRow};

/// How long a key signs.
const SIGNS_FOR: Duration = Duration::from_hours(30 * 24);
/// How long it is kept from its making on: what it signed last has expired by then.
const KEPT_FOR: Duration = Duration::from_hours(32 * 24);

/// A key.
pub(super) struct Key {
    pub id: String,
    pub signing: EncodingKey,
    pub verifying: DecodingKey,
    created_ms: i64,
}

/// Every key that counts.
pub(super) struct Keys {
    known: RwLock<HashMap<String, Arc<Key>>>,
    /// Held while a key is made.
    making: Mutex<()>,
    metadata: Metadata,
    clock: Clock,
}

impl Keys {
    /// The keys in the index. One that cannot be read is passed over: what it signed is not believed.
    pub async fn open(metadata: Metadata, clock: Clock) -> Result<Self, Error> {
        let rows = metadata.list_signing_keys().await?;
        let known = rows.into_iter().filter_map(|row| {
            let key = Key::of(&row);
            if key.is_none() {
                error!(key = row.id, "a signing key in the index cannot be read; its tokens are not believed");
            }
            key.map(|key| (key.id.clone(), Arc::new(key)))
        });
        Ok(Self { known: RwLock::new(known.collect()), making: Mutex::new(()), metadata, clock })
    }

    /// The key of this name, if what it has signed may still be believed.
    pub fn find(&self, id: &str) -> Option<Arc<Key>> {
        let oldest_ms = self.clock.now_ms() - ms(KEPT_FOR);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(id).filter(|key| key.created_ms >= oldest_ms).map(Arc::clone)
    }

    /// The key to sign with, a new one if the last one has done its time.
    pub async fn current(&self) -> Result<Arc<Key>, Error> {
        if let Some(key) = self.newest() {
            return Ok(key);
        }
        let _making = self.making.lock().await;
        if let Some(key) = self.newest() {
            return Ok(key);
        }
        let now_ms = self.clock.now_ms();
        let (oldest_ms, row) = (now_ms - ms(KEPT_FOR), make(now_ms)?);
        let key = Arc::new(Key::of(&row).ok_or(Error::Signing)?);
        self.metadata.put_signing_key(&row, oldest_ms).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, key| key.created_ms >= oldest_ms);
        known.insert(key.id.clone(), Arc::clone(&key));
        info!(key = key.id, "a new key signs tokens");
        Ok(key)
    }

    fn newest(&self) -> Option<Arc<Key>> {
        let oldest_ms = self.clock.now_ms() - ms(SIGNS_FOR);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|key| key.created_ms > oldest_ms).max_by_key(|key| key.created_ms).map(Arc::clone)
    }
}

impl Key {
    fn of(row: &SigningKeyRow) -> Option<Self> {
        let pkcs8 = row.pkcs8.expose_secret();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        Some(Self {
            id: row.id.clone(),
            signing: EncodingKey::from_ec_der(pkcs8),
            verifying: DecodingKey::from_ec_der(pair.public_key().as_ref()),
            created_ms: row.created_ms,
        })
    }
}

fn make(now_ms: i64) -> Result<SigningKeyRow, Error> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pkcs8 = pkcs8.map_err(|_| Error::Signing)?.as_ref().to_vec();
    Ok(SigningKeyRow { id: new_name(), pkcs8: pkcs8.into(), created_ms: now_ms })
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}
