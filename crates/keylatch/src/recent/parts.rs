//! The parts of a request, to tell which of them differ.

/// A part of a request that counts in its fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The method.
    Method,
    /// The path.
    Path,
    /// The query.
    Query,
    /// The type of the body, and how it is encoded.
    Type,
    /// The body.
    Body,
    /// The headers that a layer counts.
    Headers,
}

impl Part {
    /// All of them, in the order in which a request has them.
    pub const ALL: [Self; 6] = [Self::Method, Self::Path, Self::Query, Self::Type, Self::Body, Self::Headers];

    /// Its name, which does not change between versions: `method`, `path`, `query`, `type`, `body`, `headers`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Query => "query",
            Self::Type => "type",
            Self::Body => "body",
            Self::Headers => "headers",
        }
    }
}

/// Which parts of two requests differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Differs(u8);

impl Differs {
    /// The parts that differ, in the order of [`Part::ALL`].
    pub fn parts(self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(move |part| self.0 & (1 << *part as u8) != 0)
    }

    /// Whether all parts are the same.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Debug for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.parts()).finish()
    }
}

/// A short hash of each part of a request. It says nothing about the content to anyone who does not know the key of the
/// hash, which is random for each process and never leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parts([u64; Part::ALL.len()]);

impl Parts {
    /// Adds a field to `part`. An absent field is not an empty one.
    #[cfg(any(feature = "http", test))]
    pub(crate) fn add(&mut self, part: Part, field: Option<&[u8]>) {
        use std::hash::BuildHasher as _;
        use std::sync::LazyLock;

        use foldhash::quality::RandomState;

        /// The key of the hashes.
        static HASHING: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        let hash = &mut self.0[part as usize];
        *hash = HASHING.hash_one((*hash, field));
    }

    pub(super) fn differ(&self, other: &Self) -> Differs {
        let differing = Part::ALL.into_iter().filter(|part| self.0[*part as usize] != other.0[*part as usize]);
        Differs(differing.fold(0, |all, part| all | 1 << part as u8))
    }
}
