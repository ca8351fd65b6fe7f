//! What a fake upstream was asked, and what it answered.

use entrepot::oci::Digest;

/// What a request is for, as far as the fake can tell from its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Blob { repository: String, digest: String },
    Manifest { repository: String, reference: String },
    Tags { repository: String },
    Referrers { repository: String, subject: String },
    Token,
    Other,
}

impl Target {
    pub fn of(path: &str) -> Self {
        if path == "/token" {
            return Self::Token;
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Self::Other };
        if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            Self::Blob { repository: repository.to_owned(), digest: digest.to_owned() }
        } else if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            Self::Manifest { repository: repository.to_owned(), reference: reference.to_owned() }
        } else if let Some((repository, subject)) = rest.rsplit_once("/referrers/") {
            Self::Referrers { repository: repository.to_owned(), subject: subject.to_owned() }
        } else if let Some(repository) = rest.strip_suffix("/tags/list") {
            Self::Tags { repository: repository.to_owned() }
        } else {
            Self::Other
        }
    }

    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Blob { repository, .. }
            | Self::Manifest { repository, .. }
            | Self::Tags { repository }
            | Self::Referrers { repository, .. } => Some(repository),
            Self::Token | Self::Other => None,
        }
    }
}

/// One request, as it came, and how far its answer went.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub target: Target,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the body handed to the socket, framing not counted.
    pub bytes_sent: u64,
}

impl Request {
    /// Reads a request's head; `None` if it is none.
    pub fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, uri) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let (path, query) = (path.to_owned(), query.to_owned());
        Some(Self { method, target: Target::of(&path), path, query, headers, status: 0, bytes_sent: 0 })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// All requests so far, oldest first.
#[derive(Clone, Debug)]
pub struct Requests(pub Vec<Request>);

impl Requests {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn last(&self) -> &Request {
        self.0.last().expect("there was a request")
    }

    /// GETs of this blob, successful or not.
    pub fn blobs_got(&self, digest: &Digest) -> usize {
        self.count("GET", |target| matches!(target, Target::Blob { digest: d, .. } if *d == digest.to_string()))
    }

    /// GETs of this manifest by tag or digest, as asked.
    pub fn manifests_got(&self, reference: &str) -> usize {
        self.count("GET", |target| matches!(target, Target::Manifest { reference: r, .. } if r == reference))
    }

    /// HEADs of this manifest by tag or digest, as asked.
    pub fn manifests_headed(&self, reference: &str) -> usize {
        self.count("HEAD", |target| matches!(target, Target::Manifest { reference: r, .. } if r == reference))
    }

    /// Pages of tags asked for.
    pub fn tags_listed(&self) -> usize {
        self.count("GET", |target| matches!(target, Target::Tags { .. }))
    }

    /// Pages of referrers asked for.
    pub fn referrers_listed(&self) -> usize {
        self.count("GET", |target| matches!(target, Target::Referrers { .. }))
    }

    /// Requests to the token service.
    pub fn tokens_got(&self) -> usize {
        self.count("GET", |target| *target == Target::Token)
    }

    fn count(&self, method: &str, wanted: impl Fn(&Target) -> bool) -> usize {
        self.0.iter().filter(|request| request.method == method && wanted(&request.target)).count()
    }
}
