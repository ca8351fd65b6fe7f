//! Networks as an operator writes them: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units;

/// Addresses that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Network {
    /// The addresses of this machine itself, of both families.
    pub(super) fn loopback() -> Vec<Self> {
        ["127.0.0.0/8", "::1/128"].iter().filter_map(|text| Self::parse(text)).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let one_address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(one_address).map(Self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::parsed(deserializer, "a network such as 10.0.0.0/8 or fd00::/8, or one IP address", Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_prefix_or_one_address() {
        for (written, printed) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.168.1.7", "192.168.1.7/32"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(
                Network::parse(written).map(|network| network.to_string()).as_deref(),
                Some(printed),
                "{written}"
            );
        }
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "::1/129", "10.0.0.0/", "10.0.0.1:80"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_is_both_families() {
        let loopback: Vec<String> = Network::loopback().iter().map(ToString::to_string).collect();
        assert_eq!(loopback, ["127.0.0.0/8", "::1/128"]);
    }
}
