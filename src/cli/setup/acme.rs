//! `entrepot setup tls --acme`: what to write so that a certificate is issued, and what must hold for that.

use anyhow::bail;
use url::{Host, Url};

/// What to put where.
pub(super) fn text(directory: &Url, hosts: &[String], contacts: &[String]) -> anyhow::Result<String> {
    if hosts.is_empty() {
        bail!("name the certificate's names with --host");
    }
    for host in hosts {
        let is_name = matches!(Host::parse(host), Ok(Host::Domain(name)) if name == *host) && !host.contains('*');
        if !is_name {
            bail!(
                "`{host}` is no name that a certificate can be issued for here: one host in lower case, no wildcard, no address"
            );
        }
    }
    let contact: Vec<String> =
        contacts.iter().map(|to| format!("\"mailto:{}\"", to.trim_start_matches("mailto:"))).collect();
    let contact = if contact.is_empty() { String::new() } else { format!("\n      contact: [{}]", contact.join(", ")) };
    let (names, first) = (hosts.join(", "), &hosts[0]);
    Ok(format!(
        "# config.yaml
http:
  listen: 0.0.0.0:443
  tls:
    acme:
      directory: {directory}
      domains: [{names}]{contact}
      # Write true if you agree to the terms of service of whoever runs that directory.
      accept_terms: false

# What must hold:
# - {names}: the DNS leads here, for those who run the directory too.
# - Port 443 there is `listen`, or is passed on to it as bytes: a proxy that ends TLS would answer in our place. A port below
#   1024 takes the capability CAP_NET_BIND_SERVICE; or listen on 5000 and have the router or the load balancer translate.
# - A private directory (step-ca, for instance): add `ca: FILE` with its root. Clients have to believe that root, too.
# - Directories of public authorities allow few attempts: try with their staging environment first.

# When it serves:
curl https://{first}/readyz          # tls.certificate_ends, and why no other certificate was issued in tls.unissued
"
    ))
}
