//! `FakeIssuer`: an `OpenID` Connect issuer on loopback that shows the keys it is told to, and fails as it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::front::{Front, read_head};
use super::signer::Signer;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";

/// An issuer. Dropped, it is gone.
pub struct FakeIssuer {
    front: Front,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What it answers with, by path: status, headers and body.
    replies: HashMap<String, (u16, String, String)>,
    is_down: bool,
    is_hanging: watch::Sender<bool>,
}

impl FakeIssuer {
    /// One with these keys.
    pub async fn start(signers: &[&Signer]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let front = Front::new(move |mut stream, seen| {
            let shared = Arc::clone(&shared);
            async move {
                let head = read_head(&mut stream).await?;
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                seen.note(path.clone());
                let mut hanging = shared.lock().unwrap().is_hanging.subscribe();
                // It fails only when the issuer is gone.
                let _ = hanging.wait_for(|is_hanging| !is_hanging).await;
                let reply = {
                    let state = shared.lock().unwrap();
                    if state.is_down {
                        return Ok(());
                    }
                    state.replies.get(&path).cloned().unwrap_or((404, String::new(), String::new()))
                };
                let (status, headers, body) = reply;
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Scripted\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                // Who has read enough goes away.
                let _ = stream.write_all(body.as_bytes()).await;
                Ok(())
            }
        })
        .await;
        let issuer = Self { front, state };
        issuer.discovers(&json!({ "issuer": issuer.url(), "jwks_uri": format!("{}{KEYS}", issuer.url()) }));
        issuer.shows(&signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>());
        issuer
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.front.address)
    }

    /// The discovery document from now on.
    pub fn discovers(&self, document: &Value) {
        self.replies(DISCOVERY, 200, "", document.to_string());
    }

    /// Its keys from now on.
    pub fn shows(&self, keys: &[Value]) {
        self.replies(KEYS, 200, "", json!({ "keys": keys }).to_string());
    }

    /// The answer at a path from now on; each header ends with CR LF.
    pub fn replies(&self, path: &str, status: u16, headers: &str, body: String) {
        self.state().replies.insert(path.to_owned(), (status, headers.to_owned(), body));
    }

    /// Whether it hangs up on everybody from now on.
    pub fn is_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Whether it keeps everybody waiting from now on.
    pub fn hangs(&self, is_hanging: bool) {
        self.state().is_hanging.send_replace(is_hanging);
    }

    /// The paths it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.front.seen()
    }

    /// How often it was asked for its keys.
    pub fn n_asked_for_keys(&self) -> usize {
        self.asked().iter().filter(|path| *path == KEYS).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
