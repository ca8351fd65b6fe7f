//! `http.tls`: TLS on our own port, as it is written and what must hold of it.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Acme, Http,
    diagnose::Fault,
    tree::{KeyPath, Step},
    units,
    validate::Check,
};

/// `http.tls`. There is TLS if there is a certificate, or somebody to issue one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// PEM file of our certificate and the chain below its authority. Default none: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file of its key; there is one if there is the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Who issues our certificate, instead of the two files. Default nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// PEM file of the authorities whose certificates clients may show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether clients show certificates. Default `none`.
    pub client_certificates: ClientCertificates,
    /// The oldest version spoken. Default `1.2`.
    pub min_version: TlsVersion,
    /// How long a client may take for the handshake. Default `10s`.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Handshakes at a time; more wait. Default 256.
    pub handshakes_max: usize,
    /// How often the files are looked at for changes, or whether `acme` has something to do; 0 for on SIGHUP only, and every
    /// ten minutes for `acme`. Default `10s`.
    #[serde(with = "units::duration")]
    pub reload_every: Duration,
}

impl Default for ServerTls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            acme: None,
            client_ca: None,
            client_certificates: ClientCertificates::default(),
            min_version: TlsVersion::default(),
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 256,
            reload_every: Duration::from_secs(10),
        }
    }
}

impl ServerTls {
    /// Does the port speak TLS?
    pub const fn is_on(&self) -> bool {
        self.certificate.is_some() || self.acme.is_some()
    }
}

/// `http.tls.client_certificates`: whether clients show certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    None,
    /// They may; who shows a wrong one is refused.
    Request,
    /// They must.
    Require,
}

/// `http.tls.min_version`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Do passwords of clients cross a network where anybody can read them? `are_sent` is whether clients have any to send.
/// Behind a trusted proxy it is the proxy that clients speak to.
pub(super) fn passwords_in_clear(http: &Http, are_sent: bool) -> bool {
    are_sent && !http.tls.is_on() && !http.listen.ip().is_loopback() && http.trusted_proxies.is_empty()
}

impl Check<'_> {
    /// Do the files hold what they should? Whether key and certificate belong together is seen when they are used.
    pub(super) fn server_tls(&mut self, tls: &ServerTls) {
        let base = KeyPath::of(&["http", "tls"]);
        let path = |key: &str| base.clone().then(Step::Key(key.to_owned()));
        for (key, is_zero) in
            [("handshake_timeout", tls.handshake_timeout.is_zero()), ("handshakes_max", tls.handshakes_max == 0)]
        {
            if is_zero {
                self.refuse(path(key), Fault::Zero);
            }
        }
        match (&tls.certificate, &tls.key) {
            (Some(_), None) => self.refuse(path("certificate"), Fault::CertificateAlone),
            (None, Some(_)) => self.refuse(path("key"), Fault::KeyAlone),
            (None, None) if tls.client_ca.is_some() && tls.acme.is_none() => {
                self.refuse(path("client_ca"), Fault::ClientCaAlone);
            }
            _ => {}
        }
        if tls.client_certificates != ClientCertificates::None && tls.client_ca.is_none() {
            self.refuse(path("client_certificates"), Fault::NoClientCa);
        }
        for (key, file) in [("certificate", &tls.certificate), ("key", &tls.key), ("client_ca", &tls.client_ca)] {
            if let Some(file) = file {
                // Read when it is used, and whenever it changes.
                let _ = self.pem(path(key), file.clone(), key == "key");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_in_clear_on_a_plain_port_for_others() {
        let mut http = Http::default();
        assert!(!passwords_in_clear(&http, true), "on loopback nobody listens in");
        http.listen = "0.0.0.0:5000".parse().unwrap();
        assert!(passwords_in_clear(&http, true));
        assert!(!passwords_in_clear(&http, false));
        http.tls.certificate = Some("server.crt".into());
        assert!(!passwords_in_clear(&http, true));
    }
}
