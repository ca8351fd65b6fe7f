//! `entrepot setup tls`: an authority for a lab, a certificate of it, and what to put where; or what to write to get one by ACME.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use url::Url;

use super::write::{self, FOR_ALL, FOR_OWNER};
use super::{WriteError, acme};
use crate::clock::Clock;

/// The authority's certificate, which clients have to know.
pub const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";

/// How long the authority is good.
const CA_DAYS: i64 = 3650;
/// How long a certificate is good: what the strictest clients accept.
const CERTIFICATE_DAYS: i64 = 825;

/// What is to be made, and for whom.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Make an authority of its own: for a lab. For the rest of the world get a certificate from one that clients know
    #[arg(long, required_unless_present = "acme", conflicts_with = "acme")]
    pub self_signed: bool,
    /// Say what to write to have a certificate issued and renewed by the ACME directory at this URL
    #[arg(long, value_name = "URL")]
    pub acme: Option<Url>,
    /// Whom those who run the directory may write to; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "acme")]
    pub contact: Vec<String>,
    /// A name or address that clients use for this instance, besides localhost; may be given several times
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Directory for the files
    #[arg(long, value_name = "DIRECTORY", default_value = "tls")]
    pub out: PathBuf,
}

/// Makes the files and prints what to do with them, or prints what has them issued. An authority that is there already signs the new certificate, so that
/// clients need not learn another; nothing that is there is written over.
pub fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(directory) = &arguments.acme {
        let text = acme::text(directory, &arguments.hosts, &arguments.contact)?;
        return out.write_all(text.as_bytes()).context("cannot write to the output");
    }
    let at = |file: &str| arguments.out.join(file);
    for file in [CERTIFICATE, KEY] {
        if write::read(&at(file))?.is_some() {
            return Err(WriteError::Exists { path: at(file) }.into());
        }
    }
    let now = OffsetDateTime::from_unix_timestamp(Clock::System.now_ms() / 1000).context("asking for the time")?;
    let issuer = match (write::read(&at(CA))?, write::read(&at(CA_KEY))?) {
        (Some(certificate), Some(key)) => {
            let key = KeyPair::from_pem(&key).with_context(|| format!("reading {}", at(CA_KEY).display()))?;
            let issuer = Issuer::from_ca_cert_pem(&certificate, key);
            issuer.with_context(|| format!("reading {}", at(CA).display()))?
        }
        (None, None) => authority(now, &at)?,
        (Some(_), None) => return Err(WriteError::Exists { path: at(CA) }.into()),
        (None, Some(_)) => return Err(WriteError::Exists { path: at(CA_KEY) }.into()),
    };
    let hosts = hosts(&arguments.hosts);
    let mut params = CertificateParams::new(hosts.clone()).context("a --host is no name and no address")?;
    params.distinguished_name.push(DnType::CommonName, hosts[0].as_str());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(CERTIFICATE_DAYS));
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params.signed_by(&key, &issuer).context("signing the certificate")?;
    write::write_new(&at(KEY), &key.serialize_pem(), FOR_OWNER)?;
    write::write_new(&at(CERTIFICATE), &certificate.pem(), FOR_ALL)?;
    out.write_all(text(&arguments.out, &hosts).as_bytes()).context("cannot write to the output")
}

/// Makes the authority and writes it.
fn authority(now: OffsetDateTime, at: &impl Fn(&str) -> PathBuf) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "entrepot lab authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(CA_DAYS));
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params.self_signed(&key).context("signing the authority")?;
    write::write_new(&at(CA_KEY), &key.serialize_pem(), FOR_OWNER)?;
    write::write_new(&at(CA), &certificate.pem(), FOR_ALL)?;
    Ok(Issuer::new(params, key))
}

/// Named ones first, and always this machine itself.
fn hosts(named: &[String]) -> Vec<String> {
    let mut hosts = named.to_vec();
    for local in ["localhost", "127.0.0.1", "::1"] {
        if !hosts.iter().any(|host| host == local) {
            hosts.push(local.to_owned());
        }
    }
    hosts
}

fn text(folder: &Path, hosts: &[String]) -> String {
    let at = |file: &str| folder.join(file).display().to_string();
    let (ca, authority) = (at(CA), if hosts[0].contains(':') { format!("[{}]", hosts[0]) } else { hosts[0].clone() });
    format!(
        "# Made, for {hosts}:
{ca}       for clients
{ca_key}       signs further certificates: keep it where only you can read it
{certificate}   for entrepot
{key}   for entrepot alone

# config.yaml
http:
  tls:
    certificate: {certificate}
    key: {key}

# With these lines `entrepot setup docker`, containerd, podman and its kin print the authority with the rest.
# By hand, where {authority} is how clients call this instance, with its port if that is not 443:
docker               mkdir -p /etc/docker/certs.d/{authority}:5000 && cp {ca} /etc/docker/certs.d/{authority}:5000/ca.crt
podman, skopeo       mkdir -p /etc/containers/certs.d/{authority}:5000 && cp {ca} /etc/containers/certs.d/{authority}:5000/ca.crt
containerd           ca = \"/etc/containerd/certs.d/{authority}:5000/ca.crt\" below [host.\"https://{authority}:5000\"] of hosts.toml
Debian, Ubuntu       cp {ca} /usr/local/share/ca-certificates/entrepot.crt && update-ca-certificates
Fedora, RHEL         cp {ca} /etc/pki/ca-trust/source/anchors/entrepot.crt && update-ca-trust
curl                 curl --cacert {ca} https://{authority}:5000/v2/
",
        hosts = hosts.join(", "),
        ca_key = at(CA_KEY),
        certificate = at(CERTIFICATE),
        key = at(KEY),
    )
}
