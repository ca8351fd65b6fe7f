//! What a client's certificate says, and which of its names makes it somebody.

use std::net::IpAddr;

use crate::oci::Digest;

/// The longest name that becomes an identity.
const NAME_BYTES_MAX: usize = 255;

/// Whom a client proved to be in its handshake: its certificate was issued by an authority of `http.tls.client_ca`, is
/// in its time, and the client has its key. Each request of that connection comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's one common name; none if there are several, for then nobody can tell which one counts.
    pub common_name: Option<String>,
    /// Alternative names of the kind DNS.
    pub dns_names: Vec<String>,
    /// Alternative names of the kind email.
    pub emails: Vec<String>,
    /// Alternative names of the kind URI; SPIFFE identities are such.
    pub uris: Vec<String>,
    /// Alternative names of the kind IP address.
    pub addresses: Vec<IpAddr>,
    /// SHA-256 of the certificate.
    pub fingerprint: Digest,
}

/// Which name of a certificate is who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name.
    CommonName,
    /// The alternative name of the kind DNS.
    Dns,
    /// The one of the kind email.
    Email,
    /// The one of the kind URI.
    Uri,
}

impl CertificateName {
    /// That name, if there is one: of several nobody can tell which one counts.
    pub fn of(self, certificate: &PeerCertificate) -> Option<&str> {
        let name = match self {
            Self::CommonName => certificate.common_name.as_deref(),
            Self::Dns => only(&certificate.dns_names),
            Self::Email => only(&certificate.emails),
            Self::Uri => only(&certificate.uris),
        };
        name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control))
    }
}

fn only(names: &[String]) -> Option<&str> {
    if let [name] = names { Some(name) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_name_counts_if_it_is_the_only_one_of_its_kind() {
        let mut certificate = PeerCertificate {
            common_name: Some("node".to_owned()),
            dns_names: vec!["a.lan".to_owned(), "b.lan".to_owned()],
            emails: Vec::new(),
            uris: vec!["spiffe://lan/node".to_owned()],
            addresses: Vec::new(),
            fingerprint: Digest::of(Algorithm::Sha256, b""),
        };
        assert_eq!(CertificateName::CommonName.of(&certificate), Some("node"));
        assert_eq!(CertificateName::Dns.of(&certificate), None);
        assert_eq!(CertificateName::Email.of(&certificate), None);
        assert_eq!(CertificateName::Uri.of(&certificate), Some("spiffe://lan/node"));
        for name in ["", "a\nb", &"x".repeat(256)] {
            certificate.common_name = Some(name.to_owned());
            assert_eq!(CertificateName::CommonName.of(&certificate), None, "{name}");
        }
    }
}
