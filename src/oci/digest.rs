//! Digests and the algorithms that make them (image-spec, "Digests"): the only room that computes one.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as lc;

/// The algorithms the image specification registers and a registry has to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`: what every client uses unless told otherwise.
    Sha256,
    /// `sha512`.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, for whoever lays out a store.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name as it stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the digest in bytes; its hexadecimal form has twice as many characters.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestInvalid;

    fn from_str(text: &str) -> Result<Self, DigestInvalid> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestInvalid::Algorithm { given: shorten(text) }),
        }
    }
}

/// A content digest, `algorithm:hex`. Two equal digests name equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first `algorithm.size_bytes()` bytes count; the rest is zero, so derived equality holds.
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestInvalid {
    /// No colon between algorithm and hexadecimal part.
    #[error("\"{given}\" is not of the form algorithm:hex")]
    Form {
        /// What was given, shortened.
        given: String,
    },
    /// An algorithm that is not registered, or that this registry does not know.
    #[error("digest algorithm \"{given}\" is not supported, use sha256 or sha512")]
    Algorithm {
        /// What was given, shortened.
        given: String,
    },
    /// The hexadecimal part has the wrong length or a character outside `0-9a-f`.
    #[error("a {algorithm} digest has {expected} lower-case hexadecimal characters", algorithm = algorithm.as_str())]
    Hex {
        /// The algorithm named before the colon.
        algorithm: Algorithm,
        /// How many characters it takes.
        expected: usize,
    },
}

impl Digest {
    /// Digest of bytes that are all at hand.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut digester = Digester::new(algorithm);
        digester.update(bytes);
        digester.finish()
    }

    /// A digest from its raw bytes; `None` if the length is not the algorithm's.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        let mut bytes = [0; 64];
        bytes.get_mut(..raw.len())?.copy_from_slice(raw);
        (raw.len() == algorithm.size_bytes()).then_some(Self { algorithm, bytes })
    }

    /// The algorithm before the colon.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes, 32 or 64 of them.
    pub fn raw(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size_bytes()]
    }

    /// The part after the colon.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(self.algorithm.size_bytes() * 2);
        self.push_hex(&mut text);
        text
    }

    fn push_hex(&self, text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in self.raw() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

impl FromStr for Digest {
    type Err = DigestInvalid;

    fn from_str(text: &str) -> Result<Self, DigestInvalid> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestInvalid::Form { given: shorten(text) })?;
        let algorithm: Algorithm = algorithm.parse()?;
        let expected = algorithm.size_bytes() * 2;
        let invalid = DigestInvalid::Hex { algorithm, expected };
        if hex.len() != expected {
            return Err(invalid);
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(invalid),
            }
        }
        Ok(Self { algorithm, bytes })
    }
}

/// Upper case is refused: the specification's grammar has one spelling for one digest.
const fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(8 + self.algorithm.size_bytes() * 2);
        text.push_str(self.algorithm.as_str());
        text.push(':');
        self.push_hex(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest being computed over bytes as they pass.
#[derive(Clone)]
pub struct Digester {
    algorithm: Algorithm,
    context: lc::Context,
    length_bytes: u64,
}

impl Digester {
    /// Starts over no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = lc::Context::new(match algorithm {
            Algorithm::Sha256 => &lc::SHA256,
            Algorithm::Sha512 => &lc::SHA512,
        });
        Self { algorithm, context, length_bytes: 0 }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length_bytes += bytes.len() as u64;
    }

    /// The algorithm this was started with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How many bytes were taken in.
    pub const fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        let finished = self.context.finish();
        Digest::from_raw(self.algorithm, finished.as_ref()).expect("a finished digest has its algorithm's length")
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digester({}, {} bytes)", self.algorithm.as_str(), self.length_bytes)
    }
}

/// Texts of strangers are quoted in errors and logs: never more than a line of them.
pub(super) fn shorten(text: &str) -> String {
    const QUOTED_MAX: usize = 80;
    let printable: String =
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(QUOTED_MAX).collect();
    if text.chars().count() > QUOTED_MAX { format!("{printable}…") } else { printable }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn the_empty_digest_is_the_published_one() {
        assert_eq!(
            Digest::of(Algorithm::Sha256, b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn texts_that_are_no_digests_are_refused_with_their_reason() {
        let refuse = |text: &str| text.parse::<Digest>().unwrap_err().to_string();
        assert_eq!(refuse("latest"), "\"latest\" is not of the form algorithm:hex");
        assert_eq!(refuse("md5:00"), "digest algorithm \"md5\" is not supported, use sha256 or sha512");
        assert_eq!(refuse("sha256:00"), "a sha256 digest has 64 lower-case hexadecimal characters");
        let upper = format!("sha256:{}", "A".repeat(64));
        assert_eq!(refuse(&upper), "a sha256 digest has 64 lower-case hexadecimal characters");
        assert!(refuse(&"x".repeat(10_000)).len() < 300);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(raw in prop::collection::vec(any::<u8>(), 64), wide: bool) {
            let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::from_raw(algorithm, &raw[..algorithm.size_bytes()]).unwrap();
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn an_independent_implementation_agrees(bytes in prop::collection::vec(any::<u8>(), 0..4096), cut in 0usize..4096) {
            let cut = cut.min(bytes.len());
            for algorithm in Algorithm::ALL {
                let mut digester = Digester::new(algorithm);
                digester.update(&bytes[..cut]);
                digester.update(&bytes[cut..]);
                let expected = match algorithm {
                    Algorithm::Sha256 => sha2::Sha256::digest(&bytes).to_vec(),
                    Algorithm::Sha512 => sha2::Sha512::digest(&bytes).to_vec(),
                };
                let digest = digester.finish();
                prop_assert_eq!(digest.raw(), &expected[..]);
            }
        }

        #[test]
        fn no_text_panics_the_parser(text in "\\PC*") {
            let _ = text.parse::<Digest>();
        }
    }
}
