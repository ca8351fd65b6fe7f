//! The PROXY protocol, versions 1 and 2: how a connection that a trusted proxy passes on says whose it is.
//!
//! A version 1 header is a line of text, a version 2 header has 16 bytes, addresses and extensions, which are skipped. The
//! specification is haproxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Signature, version and command, family, length.
const HEAD_BYTES: usize = 16;
/// Addresses and extensions of version 2: TLS names and a cloud's identifiers fit.
const REST_BYTES_MAX: usize = 2048;

/// What the first bytes of a connection say so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More has to come.
    Incomplete,
    /// The header has `len` bytes. The client is known unless the proxy speaks for itself (a health check) or for somebody
    /// without an address.
    Complete { client: Option<SocketAddr>, len: usize },
    /// This is no header.
    Invalid,
}

/// Reads a header at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begins_like = |start: &[u8]| {
        let common = bytes.len().min(start.len());
        bytes[..common] == start[..common]
    };
    if begins_like(SIGNATURE) {
        parse_binary(bytes)
    } else if begins_like(WORD) {
        parse_line(bytes)
    } else {
        Parsed::Invalid
    }
}

fn parse_binary(bytes: &[u8]) -> Parsed {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Parsed::Incomplete };
    let rest_len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let (version, command, family) = (head[12] >> 4, head[12] & 0xF, head[13]);
    if version != 2 || command > 1 || rest_len > REST_BYTES_MAX {
        return Parsed::Invalid;
    }
    let Some(rest) = rest.get(..rest_len) else { return Parsed::Incomplete };
    let len = HEAD_BYTES + rest_len;
    let client = match (command, family) {
        // Both addresses, then both ports.
        (1, 0x11) => rest.first_chunk::<12>().map(|at| (IpAddr::from([at[0], at[1], at[2], at[3]]), [at[8], at[9]])),
        (1, 0x21) => rest.first_chunk::<36>().map(|at| {
            let source: [u8; 16] = std::array::from_fn(|index| at[index]);
            (IpAddr::from(source), [at[32], at[33]])
        }),
        _ => return Parsed::Complete { client: None, len },
    };
    let Some((address, port)) = client else { return Parsed::Invalid };
    Parsed::Complete { client: Some(SocketAddr::new(address, u16::from_be_bytes(port))), len }
}

fn parse_line(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if window.len() < LINE_BYTES_MAX { Parsed::Incomplete } else { Parsed::Invalid };
    };
    let len = end + 2;
    let Ok(line) = std::str::from_utf8(&window[WORD.len().min(end)..end]) else { return Parsed::Invalid };
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[..] {
        ["UNKNOWN", ..] => return Parsed::Complete { client: None, len },
        ["TCP4", source, _, port, _] => source.parse::<Ipv4Addr>().ok().map(IpAddr::from).zip(port.parse().ok()),
        ["TCP6", source, _, port, _] => source.parse::<Ipv6Addr>().ok().map(IpAddr::from).zip(port.parse().ok()),
        _ => None,
    };
    client.map_or(Parsed::Invalid, |(address, port)| Parsed::Complete {
        client: Some(SocketAddr::new(address, port)),
        len,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &len, rest].concat()
    }

    fn v4() -> Vec<u8> {
        // An extension (a unique identifier) follows the addresses.
        binary(1, 0x11, &[&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xBB][..], &[5, 0, 2, 1, 2]].concat())
    }

    fn v6() -> Vec<u8> {
        let mut rest = [0; 36];
        rest[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
        rest[15] = 7;
        rest[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        binary(1, 0x21, &rest)
    }

    fn client(bytes: &[u8]) -> Option<String> {
        match parse(bytes) {
            Parsed::Complete { client, len } if len == bytes.len() => {
                Some(client.map_or("nobody".to_owned(), |client| client.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn both_versions_name_the_client() {
        for (bytes, expected) in [
            (v4(), "192.0.2.7:4711"),
            (v6(), "[2001:db8::7]:4711"),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec(), "192.0.2.7:4711"),
            (b"PROXY TCP6 2001:db8::7 fd00::1 4711 443\r\n".to_vec(), "[2001:db8::7]:4711"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "nobody"),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "nobody"),
            (binary(0, 0, &[]), "nobody"),
            (binary(0, 0x11, &[0; 12]), "nobody"),
            (binary(1, 0, &[]), "nobody"),
            (binary(1, 0x31, &[0; 216]), "nobody"),
        ] {
            assert_eq!(client(&bytes).as_deref(), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn what_follows_a_header_is_not_part_of_it() {
        for header in [v4(), v6(), b"PROXY UNKNOWN\r\n".to_vec()] {
            let Parsed::Complete { len, .. } = parse(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()) else {
                panic!("{header:?}");
            };
            assert_eq!(len, header.len());
        }
    }

    #[test]
    fn a_header_is_incomplete_up_to_its_last_byte() {
        for header in [v4(), v6(), b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n".to_vec()] {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Parsed::Incomplete, "{len} of {header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let too_long = [&b"PROXY TCP4 "[..], &[b'1'; 107]].concat();
        let mut wrong_version = v4();
        wrong_version[12] = 0x11;
        let mut wrong_command = v4();
        wrong_command[12] = 0x22;
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            vec![0x16, 3, 1],
            b"PROXY TCP4 somebody 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 fd00::1 fd00::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            binary(1, 0x11, &[0; 11]),
            binary(1, 0x21, &[0; 35]),
            binary(1, 0x11, &[0; 4000]),
            too_long,
            wrong_version,
            wrong_command,
        ] {
            assert_eq!(parse(&bytes), Parsed::Invalid, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Parsed::Complete { len, .. } = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }

        /// The same, where every input has got past the signature.
        #[test]
        fn any_rest_of_a_header_is_read_without_harm(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            for start in [&SIGNATURE[..], WORD] {
                let bytes = [start, &rest].concat();
                if let Parsed::Complete { len, .. } = parse(&bytes) {
                    prop_assert!(len <= bytes.len());
                }
            }
        }

        /// Bytes that come later never change what was complete.
        #[test]
        fn what_is_decided_stays_so(rest in proptest::collection::vec(any::<u8>(), 0..64), more in any::<u8>()) {
            let bytes = [&SIGNATURE[..], &rest].concat();
            let decided = parse(&bytes);
            if decided != Parsed::Incomplete {
                prop_assert_eq!(parse(&[&bytes[..], &[more]].concat()), decided);
            }
        }
    }
}
