//! A token, as it is kept and compared.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// The hash of a token. It can be compared in constant time, and in no other way: it has no `PartialEq`.
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether both are of one token. Takes the same time wherever they differ.
    pub(super) fn same(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Shows nothing.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;

    /// `==` stops at the first byte that differs, and so tells an attacker how far a guess was right. No test can
    /// measure that safely, so this one makes sure that a secret has no `==`.
    #[test]
    fn a_secret_has_no_comparison_but_the_one_in_constant_time() {
        trait Otherwise {
            const HAS_EQ: bool = false;
        }
        impl<T> Otherwise for Has<T> {}
        struct Has<T>(PhantomData<T>);
        // An inherent constant wins over that of the trait, where its condition holds.
        impl<T: PartialEq> Has<T> {
            const HAS_EQ: bool = true;
        }
        assert_eq!([Has::<[u8; 32]>::HAS_EQ, Has::<Secret>::HAS_EQ], [true, false], "the test can tell them apart");
    }

    #[test]
    fn secrets_are_the_same_if_and_only_if_their_tokens_are() {
        let same = |a: &str, b: &str| bool::from(Secret::of(a.as_bytes()).same(&Secret::of(b.as_bytes())));
        assert!(same("a token", "a token"));
        assert!(!same("a token", "a tokeN") && !same("a token", "a toke") && !same("", "a token"));
    }
}
