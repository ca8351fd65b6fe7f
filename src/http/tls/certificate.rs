//! What a certificate says: whose it is, and how long it is good.

use std::net::IpAddr;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

pub use crate::auth::PeerCertificate;
use crate::oci::{Algorithm, Digest};

/// Below this there is reason to warn, whatever a certificate's whole time.
const SOON_MAX: Duration = Duration::from_hours(14 * 24);

impl PeerCertificate {
    /// What a verified certificate says. Names it writes in a way nobody can read are not there.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut said = Self {
            common_name: None,
            dns_names: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            addresses: Vec::new(),
            fingerprint: Digest::of(Algorithm::Sha256, certificate),
        };
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return said };
        let mut common_names = parsed.subject().iter_common_name();
        if let (Some(name), None) = (common_names.next(), common_names.next()) {
            said.common_name = name.as_str().ok().map(str::to_owned);
        }
        let alternative = parsed.subject_alternative_name().ok().flatten();
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => said.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => said.emails.push((*name).to_owned()),
                GeneralName::URI(name) => said.uris.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => said.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        said
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// When a certificate is good: Unix seconds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub not_before_s: i64,
    /// Not after.
    pub not_after_s: i64,
}

/// How much of its time a certificate has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Enough.
    Enough,
    /// So little that somebody has to see to it.
    Little(Duration),
    /// Clients refuse it.
    Nothing,
}

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let validity = parsed.validity();
        Some(Self { not_before_s: validity.not_before.timestamp(), not_after_s: validity.not_after.timestamp() })
    }

    /// What is left of it: little is less than two weeks, or than a fifth of its time if it is a short one, for those are
    /// renewed when a third is left.
    pub fn left(self, now_s: i64) -> Left {
        let seconds = |from: i64, to: i64| Duration::from_secs(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
        let left = seconds(now_s, self.not_after_s);
        let soon = SOON_MAX.min(seconds(self.not_before_s, self.not_after_s) / 5);
        match left {
            Duration::ZERO => Left::Nothing,
            left if left < soon => Left::Little(left),
            _ => Left::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const DAY_S: i64 = 24 * 3600;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["node-1.lan".to_owned()]).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn names_of_every_kind_are_told_apart() {
        let said = PeerCertificate::of(&certificate(|params| {
            params.distinguished_name.push(DnType::CommonName, "robot");
            params.subject_alt_names.push(SanType::URI("spiffe://lan/robot".try_into().unwrap()));
            params.subject_alt_names.push(SanType::Rfc822Name("robot@lan".try_into().unwrap()));
            params.subject_alt_names.push(SanType::IpAddress("10.0.0.7".parse().unwrap()));
            params.subject_alt_names.push(SanType::IpAddress("fd00::7".parse().unwrap()));
        }));
        assert_eq!(said.common_name.as_deref(), Some("robot"));
        assert_eq!(said.dns_names, ["node-1.lan"]);
        assert_eq!(said.uris, ["spiffe://lan/robot"]);
        assert_eq!(said.emails, ["robot@lan"]);
        assert_eq!(said.addresses, ["10.0.0.7", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn what_is_no_certificate_is_nobody() {
        let said = PeerCertificate::of(&CertificateDer::from(b"nonsense".to_vec()));
        assert_eq!((said.common_name, said.dns_names.len()), (None, 0));
        assert_eq!(Validity::of(&CertificateDer::from(b"nonsense".to_vec())), None);
    }

    #[test]
    fn little_is_two_weeks_or_a_fifth_of_a_short_time() {
        let year = Validity { not_before_s: 0, not_after_s: 365 * DAY_S };
        assert_eq!(year.left(350 * DAY_S), Left::Enough);
        assert_eq!(year.left(352 * DAY_S), Left::Little(Duration::from_hours(13 * 24)));
        assert_eq!(year.left(365 * DAY_S), Left::Nothing);
        assert_eq!(year.left(400 * DAY_S), Left::Nothing);
        let day = Validity { not_before_s: 0, not_after_s: DAY_S };
        assert_eq!(day.left(DAY_S / 2), Left::Enough);
        assert_eq!(day.left(DAY_S - 3600), Left::Little(Duration::from_hours(1)));
    }
}
