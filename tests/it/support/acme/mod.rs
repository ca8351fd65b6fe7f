//! `FakeAcme`: a directory on loopback that keeps to RFC 8555 and RFC 8737 in earnest (nonces, signatures, proofs seen by asking
//! for them), issues with an authority of its own, and fails as it is told to.

mod orders;
mod proof;
mod request;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::front::Front;
use orders::{Order, Proof, State};
use request::{Asked, Signed};

/// Where a registry's clock stands in tests when they begin, in Unix seconds.
const BEGINNING_S: i64 = 1_750_000_000;
/// So long that the clocks of clients, which are real, do not matter.
pub const LIFETIME: Duration = Duration::from_hours(24 * 365 * 60);

/// A directory. Dropped, it is gone.
pub struct FakeAcme {
    front: Front,
    state: Arc<Shared>,
}

/// What is shared by its connections.
struct Shared {
    state: Mutex<State>,
    /// Where it looks for proofs; while it does not know, whoever wants to be seen waits.
    port: watch::Sender<Option<SocketAddr>>,
}

/// An answer that is not the usual one.
#[derive(Clone, Debug)]
pub struct Fault {
    pub status: u16,
    /// Each ends with CR LF.
    pub headers: String,
    pub body: String,
}

impl Fault {
    /// A reason in ACME's form.
    pub fn problem(status: u16, kind: &str) -> Self {
        let body = json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "as the test wants it"});
        Self { status, headers: "content-type: application/problem+json\r\n".to_owned(), body: body.to_string() }
    }

    /// The same, with a time to come back.
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { headers: format!("{}retry-after: {seconds}\r\n", self.headers), ..self }
    }
}

impl FakeAcme {
    pub async fn start() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let state = State {
            base: String::new(),
            nonces: HashSet::new(),
            accounts: Vec::new(),
            orders: Vec::new(),
            issuer: Issuer::new(params, key),
            authority,
            now_s: BEGINNING_S,
            lifetime: LIFETIME,
            is_down: false,
            is_holding: false,
            faults: HashMap::new(),
            elsewhere: None,
            external: None,
            issued: Vec::new(),
        };
        let state = Arc::new(Shared { state: Mutex::new(state), port: watch::Sender::new(None) });
        let shared = Arc::clone(&state);
        let front = Front::new(move |mut stream, seen| {
            let shared = Arc::clone(&shared);
            async move {
                let asked = Asked::read(&mut stream).await?;
                if shared.lock().is_down {
                    return Ok(());
                }
                seen.note(asked.endpoint());
                let answer = answer(&shared, &asked);
                stream.write_all(answer.as_bytes()).await?;
                Ok(())
            }
        })
        .await;
        let fake = Self { front, state };
        fake.is_called(&format!("http://{}", fake.front.address));
        fake
    }

    /// Where its directory is.
    pub fn directory(&self) -> String {
        format!("{}/directory", self.lock().base)
    }

    pub fn address(&self) -> SocketAddr {
        self.front.address
    }

    /// Its own URL from now on.
    pub fn is_called(&self, base: &str) {
        base.clone_into(&mut self.lock().base);
    }

    /// Its authority, as PEM.
    pub fn authority(&self) -> String {
        self.lock().authority.clone()
    }

    /// Where it looks for proofs from now on, whatever the name.
    pub fn looks_at(&self, port: SocketAddr) {
        self.state.port.send_replace(Some(port));
    }

    /// Nobody has said where it should look.
    pub fn looks_nowhere(&self) {
        self.state.port.send_replace(None);
    }

    /// Whether it hangs up on everybody from now on.
    pub fn is_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Whether orders stay where they are when all is proven and asked for.
    pub fn holds_orders(&self, is_holding: bool) {
        self.lock().is_holding = is_holding;
    }

    /// Has the next answer of this endpoint be another one.
    pub fn fails(&self, endpoint: &'static str, fault: Fault) {
        self.lock().faults.entry(endpoint).or_default().push_back(fault);
    }

    /// Orders are taken at this URL from now on.
    pub fn takes_orders_at(&self, url: &str) {
        self.lock().elsewhere = Some(url.to_owned());
    }

    /// Only those who know this key are taken.
    pub fn is_for(&self, id: &str, key: &[u8]) {
        self.lock().external = Some((id.to_owned(), key.to_vec()));
    }

    /// Forgets all accounts.
    pub fn forgets_accounts(&self) {
        self.lock().accounts.clear();
    }

    /// Moves its clock on.
    pub fn advance(&self, by: Duration) {
        self.lock().now_s += i64::try_from(by.as_secs()).unwrap();
    }

    /// What it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.front.seen()
    }

    /// How often an endpoint was asked.
    pub fn n_asked(&self, endpoint: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == endpoint).count()
    }

    /// Orders and certificates so far.
    pub fn n_orders(&self) -> usize {
        self.lock().orders.len()
    }

    /// Every certificate it has issued, in DER.
    pub fn issued(&self) -> Vec<Vec<u8>> {
        self.lock().issued.clone()
    }

    /// The contacts of its accounts.
    pub fn contacts(&self) -> Vec<Value> {
        self.lock().accounts.iter().map(|account| account["contact"].clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// An answer with a nonce, which every answer has.
fn said(state: &mut State, fault: &Fault) -> String {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    state.nonces.insert(nonce.clone());
    let Fault { status, headers, body } = fault;
    format!(
        "HTTP/1.1 {status} Scripted\r\n{headers}replay-nonce: {nonce}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn document(status: u16, location: Option<String>, body: &Value) -> Fault {
    let location = location.map(|url| format!("location: {url}\r\n")).unwrap_or_default();
    Fault { status, headers: format!("content-type: application/json\r\n{location}"), body: body.to_string() }
}

fn answer(shared: &Arc<Shared>, asked: &Asked) -> String {
    let endpoint = asked.endpoint();
    {
        let mut state = shared.lock();
        if let Some(fault) = state.faults.get_mut(endpoint.as_str()).and_then(VecDeque::pop_front) {
            return said(&mut state, &fault);
        }
        if asked.method != "POST" {
            let base = &state.base;
            let orders = state.elsewhere.clone().unwrap_or_else(|| format!("{base}/order"));
            let body = json!({"newNonce": format!("{base}/nonce"), "newAccount": format!("{base}/account"), "newOrder": orders});
            let body = if asked.method == "HEAD" { String::new() } else { body.to_string() };
            let is_known = matches!(endpoint.as_str(), "directory" | "nonce");
            let status = if is_known { 200 } else { 404 };
            return said(&mut state, &Fault { status, headers: String::new(), body });
        }
    }
    let answered = match signed(shared, asked) {
        Ok(signed) => obey(shared, asked, &signed),
        Err(refused) => Err(refused),
    };
    said(&mut shared.lock(), &answered.unwrap_or_else(|refused| refused))
}

/// What was signed, by whom; every signature counts once, at one URL.
fn signed(shared: &Shared, asked: &Asked) -> Result<Signed, Fault> {
    let mut state = shared.lock();
    let signed = Signed::read(&asked.body, &state.accounts).ok_or_else(|| {
        let is_unknown = String::from_utf8_lossy(&asked.body).contains("protected");
        Fault::problem(400, if is_unknown { "accountDoesNotExist" } else { "malformed" })
    })?;
    if !state.nonces.remove(&signed.nonce) {
        return Err(Fault::problem(400, "badNonce"));
    }
    let is_here = signed.url == format!("{}{}", state.base, asked.path);
    if is_here { Ok(signed) } else { Err(Fault::problem(401, "unauthorized")) }
}

fn obey(shared: &Arc<Shared>, asked: &Asked, signed: &Signed) -> Result<Fault, Fault> {
    let mut state = shared.lock();
    let (base, parts) = (state.base.clone(), asked.parts());
    let malformed = || Fault::problem(400, "malformed");
    let at = |nth: usize| parts.get(nth).and_then(|part| part.parse::<usize>().ok()).ok_or_else(malformed);
    match parts[0] {
        "account" if parts.len() > 1 => {
            state.accounts[at(1)?]["contact"] = signed.payload["contact"].clone();
            Ok(document(200, None, &json!({"status": "valid"})))
        }
        "account" => {
            if let Some((id, key)) = &state.external
                && !signed.is_bound_to(id, key, &format!("{base}/account"))
            {
                return Err(Fault::problem(403, "externalAccountRequired"));
            }
            let account = json!({"jwk": signed.jwk, "contact": signed.payload["contact"]});
            assert_eq!(signed.payload["termsOfServiceAgreed"], true);
            state.accounts.push(account);
            let url = format!("{base}/account/{}", state.accounts.len() - 1);
            Ok(document(201, Some(url), &json!({"status": "valid"})))
        }
        "order" if parts.len() == 1 => {
            let names = signed.payload["identifiers"].as_array().ok_or_else(malformed)?;
            let proof = |name: &Value| Proof {
                name: name["value"].as_str().unwrap_or_default().to_owned(),
                token: uuid::Uuid::new_v4().simple().to_string(),
                status: "pending",
                error: None,
            };
            let proofs = names.iter().map(proof).collect();
            state.orders.push(Order { status: "pending", proofs, certificate: None });
            let nth = state.orders.len() - 1;
            Ok(document(201, Some(format!("{base}/order/{nth}")), &state.order(nth)))
        }
        "order" => {
            let nth = at(1)?;
            if state.orders[nth].status == "processing" && !state.is_holding {
                state.orders[nth].status = "valid";
            }
            Ok(document(200, None, &state.order(nth)))
        }
        "authorization" => Ok(document(200, None, &state.authorization(at(1)?, at(2)?))),
        "challenge" => {
            let (nth, of) = (at(1)?, at(2)?);
            state.orders[nth].proofs[of].status = "processing";
            let looking = proof::look(Arc::clone(shared), nth, of, signed.thumbprint());
            tokio::spawn(looking);
            Ok(document(200, None, &state.challenge(nth, of)))
        }
        "finalize" => {
            let nth = at(1)?;
            if state.orders[nth].status != "ready" {
                return Err(Fault::problem(403, "orderNotReady"));
            }
            state.issue(nth, signed.payload["csr"].as_str().ok_or_else(malformed)?);
            state.orders[nth].status = "processing";
            Ok(document(200, None, &state.order(nth)))
        }
        "certificate" => {
            let body = state.orders[at(1)?].certificate.clone().ok_or_else(malformed)?;
            Ok(Fault { status: 200, headers: "content-type: application/pem-certificate-chain\r\n".to_owned(), body })
        }
        _ => Err(malformed()),
    }
}
